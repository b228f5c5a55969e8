"""Listing: which layouts are understood, in which order, and what is refused with which words."""

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from datasets import listing
from datasets.listing import Listing, list_images, natural_key
from tests.datasets.errors import error_line

SPLITS = ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "test/dog/4.png")


def folder_of(path: Path, *names: str) -> str:
    """Writes small files, and folders for names that end in `/`, below `path`."""
    for name in names:
        file = path / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            file.write_bytes(name.encode())
    path.mkdir(exist_ok=True)
    return str(path)


def table_of(path: Path, text: str | bytes, *names: str) -> str:
    """Writes a table and the images that it names."""
    folder_of(path.parent, *names)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def packed(folder: Path, form: str) -> str:
    """Packs a folder into an archive beside it, or returns the folder itself for the form ""."""
    if not form:
        return str(folder)
    archive = f"{folder}{form}"
    files = sorted(folder.rglob("*"))
    if form == ".zip":
        with zipfile.ZipFile(archive, "w") as zip_file:
            for file in files:
                zip_file.write(file, file.relative_to(folder))
    else:
        compression = form.rpartition(".")[2].replace("tgz", "gz").replace("tar", "")
        with tarfile.open(archive, f"w:{compression}") as tar_file:
            for file in files:
                tar_file.add(file, Path(".", file.relative_to(folder)), recursive=False)
    return archive


def names_of(listing: Listing) -> list[str]:
    return [file.name for file in listing.files]


def images_of(listing: Listing) -> list[tuple[str, str, str]]:
    return [(file.name, listing.class_names[file.label], file.split) for file in listing.files]


def test_folders_of_splits_are_listed_with_class_and_split(tmp_path):
    listing = list_images(folder_of(tmp_path, *SPLITS))

    assert images_of(listing) == [
        ("train/cat/1.png", "cat", "train"),
        ("train/dog/2.png", "dog", "train"),
        ("val/cat/3.png", "cat", "val"),
        ("test/dog/4.png", "dog", "test"),
    ]
    assert listing.layout == "train/, val/ and test/ folders"
    assert listing.passed_over == {}


@pytest.mark.parametrize(
    ("train", "val", "test"), [("Train", "valid", "TEST"), ("training", "Validation", "testing")]
)
def test_splits_are_known_by_their_usual_names_in_any_case(tmp_path, train, val, test):
    listing = list_images(
        folder_of(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{val}/a/1.png", f"{test}/b/1.png")
    )
    assert [file.split for file in listing.files] == ["train", "train", "val", "test"]


def test_folders_of_classes_are_yet_to_be_split(tmp_path):
    listing = list_images(folder_of(tmp_path, "dog/deep/er/1.PNG", "cat/2.jpeg"))

    assert images_of(listing) == [("cat/2.jpeg", "cat", ""), ("dog/deep/er/1.PNG", "dog", "")]
    assert listing.layout == "class folders"


def test_classes_are_in_natural_order(tmp_path):
    classes = ["class10", "Class1", "class2", "élan", "a b", "zoo", "10", "9", "日本"]
    listing = list_images(folder_of(tmp_path, *(f"{name}/1.png" for name in classes)))
    assert listing.class_names == ("9", "10", "a b", "Class1", "class2", "class10", "zoo", "élan", "日本")


def test_numbers_sort_by_value_whatever_their_length():
    numbers = ["9" * 5000, "1" + "0" * 30, "99", "10", "007a", "7", "0"]
    assert sorted(numbers, key=natural_key, reverse=True) == numbers


def test_images_follow_the_number_in_their_names_across_classes(tmp_path):
    names = [f"train/{number % 3}/{number:02}.png" for number in range(12)]
    assert names_of(list_images(folder_of(tmp_path, *names))) == names


def test_images_of_the_same_number_follow_their_classes(tmp_path):
    names = ["b2/1.png", "b10/1.png", "b2/2.png", "b10/2.png", "b2/10.png", "b10/10.png"]
    assert names_of(list_images(folder_of(tmp_path, *names))) == names


def test_signs_written_with_its_running_index_keeps_the_order_of_its_labels(tmp_path):
    labels = [5, 0, 2, 5, 1, 0, 4, 3]
    names = [f"train/{label}/{index:04}.png" for index, label in enumerate(labels)]
    listing = list_images(folder_of(tmp_path, *names))
    assert [file.label for file in listing.files] == labels


@pytest.mark.parametrize("form", ["", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("around", ["", "data/cifar 10/"])
def test_an_archive_is_listed_as_its_folder_is(tmp_path, form, around):
    names = (*SPLITS, "train/cat/notes.txt", "train/.hidden.png", "__MACOSX/train/._1.png", "test/.x/1.png")
    folder_of(tmp_path / "x", *(around + name for name in names), "README.txt")

    listing = list_images(packed(tmp_path / "x", form))

    assert names_of(listing) == [around + name for name in SPLITS]
    assert listing.passed_over == {"hidden": 3, "no images by their name": 2}
    assert dict(listing.source.contents(names_of(listing))) == {
        around + name: (around + name).encode() for name in SPLITS
    }
    words = "train/, val/ and test/ folders"
    assert listing.layout == (f"{words} of {around}" if around else words)


@pytest.mark.parametrize("form", ["", ".zip", ".tgz"])
def test_files_that_are_no_images_are_counted(tmp_path, form):
    folder_of(
        tmp_path / "x",
        *("a/1.png", "b/2.png", "a/Thumbs.db", "a/.DS_Store", "b/desktop.ini"),
        *(".ipynb_checkpoints/1.png", ".ipynb_checkpoints/2.png", "b/notes", "b/png", "b/x.pdf"),
    )
    listing = list_images(packed(tmp_path / "x", form))
    assert names_of(listing) == ["a/1.png", "b/2.png"]
    assert listing.passed_over == {"hidden": 4, "no images by their name": 3}


def test_images_beside_the_class_folders_are_counted(tmp_path):
    folder = folder_of(tmp_path, *SPLITS, "overview.png", "train/overview.png")
    listing = list_images(folder)
    assert names_of(listing) == list(SPLITS)
    assert listing.passed_over == {"beside the class folders": 2}


def test_a_class_of_trains_is_a_class(tmp_path):
    listing = list_images(folder_of(tmp_path, "bus/1.png", "train/1.png", "train/2.png"))
    assert listing.class_names == ("bus", "train")
    assert {file.split for file in listing.files} == {""}


def test_folders_without_images_beside_train_are_no_classes(tmp_path):
    listing = list_images(folder_of(tmp_path, *SPLITS, "annotations/1.xml", "logs/"))
    assert names_of(listing) == list(SPLITS)


def test_a_class_without_test_images_is_fine(tmp_path):
    listing = list_images(folder_of(tmp_path, *SPLITS, "test/cat/"))
    assert listing.class_names == ("cat", "dog")


def test_a_class_is_one_however_its_accents_are_written(tmp_path):
    listing = list_images(folder_of(tmp_path, "train/\u00e9/1.png", "train/o/1.png", "test/e\u0301/1.png"))
    assert listing.class_names == ("o", "\u00e9")


def test_a_link_to_a_folder_is_followed_and_a_circle_is_not(tmp_path):
    folder_of(tmp_path / "x", "a/1.png", "b/2.png")
    folder_of(tmp_path / "elsewhere", "3.png")
    (tmp_path / "x/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/a/circle").symlink_to(tmp_path / "x")
    (tmp_path / "x/a/4.png").symlink_to(tmp_path / "x/b/2.png")
    (tmp_path / "x/a/gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "x/a/itself.png").symlink_to(tmp_path / "x/a/itself.png")
    os.mkfifo(tmp_path / "x/a/pipe.png")

    listing = list_images(str(tmp_path / "x"))

    assert names_of(listing) == ["a/1.png", "b/2.png", "c/3.png", "a/4.png"]
    assert listing.passed_over == {"links in a circle": 1, "broken links": 2, "pipes or devices": 1}


def test_names_that_are_not_utf8_are_listed_and_read(tmp_path):
    folder_of(tmp_path, "b/1.png")
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    with open(os.fsencode(tmp_path) + b"/caf\xe9/\xff.png", "wb") as file:
        file.write(b"content")

    listing = list_images(str(tmp_path))

    assert listing.class_names == ("b", "caf\\xe9")
    ((_, content),) = listing.source.contents([listing.files[1].name])
    assert content == b"content"


def test_no_file_is_asked_for_its_status(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, *(f"{name}/{number}.png" for name in "ab" for number in range(50)))
    paths = []
    status = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: paths.append(path) or status(path, **options))
    list_images(folder)
    assert not [path for path in paths if str(path).endswith(".png")]


TABLE = "path,label,split\nimages/2.png,dog,train\nimages/10.png,cat,Train\nimages/1,cat,valid\n"
TABLE_FILES = ("images/2.png", "images/10.png", "images/1")


def test_a_table_gives_class_split_and_order(tmp_path):
    listing = list_images(table_of(tmp_path / "labels.csv", TABLE, *TABLE_FILES))

    assert images_of(listing) == [
        ("images/2.png", "dog", "train"),
        ("images/10.png", "cat", "train"),
        ("images/1", "cat", "val"),
    ]
    assert listing.class_names == ("cat", "dog")
    assert listing.layout == "the table labels.csv"
    assert dict(listing.source.contents(names_of(listing)))["images/1"] == b"images/1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "\ufeffpath,label\n1.png,a\n2.png,b\n"),
        ("x.csv", "Label;weight;Filename\r\na;0,5;1.png\r\nb;0,5;2.png\r\n\r\n;;\r\n"),
        ("x.tsv", 'image\tclass\n"1.png"\ta\n./2.png\t b \n'),
        ("x.CSV", "path,label,filename,class,split\n1.png,a,x,0,\n2.png,b,y,1,\n"),
        ("x.csv", "path,label\n1.png,a\n2.png,b\n1.png,a\n"),
    ],
)
def test_a_table_may_be_written_in_several_ways(tmp_path, name, text):
    listing = list_images(table_of(tmp_path / name, text, "1.png", "2.png"))
    assert images_of(listing) == [("1.png", "a", ""), ("2.png", "b", "")]


def test_a_row_that_repeats_another_is_counted(tmp_path):
    text = "path,label\n1.png,a\n2.png,b\n./1.png,a\n"
    listing = list_images(table_of(tmp_path / "x.csv", text, "1.png", "2.png"))
    assert len(listing.files) == 2
    assert listing.passed_over == {"named more than once": 1}


def test_a_table_on_disk_may_name_absolute_paths_and_folders_beside_its_own(tmp_path):
    folder_of(tmp_path, "images/1.png", "images/2.png", "images/3.png")
    text = f"path,label\n{tmp_path}/images/1.png,a\n../images/2.png,b\n..\\images\\3.png,b\n"
    listing = list_images(table_of(tmp_path / "tables" / "x.csv", text))
    assert [content for _, content in listing.source.contents(names_of(listing))] == [
        b"images/1.png",
        b"images/2.png",
        b"images/3.png",
    ]


@pytest.mark.parametrize("form", [".zip", ".tar.gz"])
def test_a_table_in_an_archive_labels_its_images(tmp_path, form):
    folder_of(tmp_path / "x", *(f"data/{name}" for name in TABLE_FILES), "data/images/unnamed.png")
    (tmp_path / "x/data/labels.csv").write_text(TABLE)
    listing = list_images(packed(tmp_path / "x", form))
    assert names_of(listing) == [f"data/{name}" for name in TABLE_FILES]
    assert listing.passed_over == {"not in the table": 1}


def test_a_table_in_an_archive_cannot_name_files_outside(tmp_path):
    folder_of(tmp_path / "x", "1.png")
    (tmp_path / "x/labels.csv").write_text("path,label\n1.png,a\n/etc/passwd,b\n../../etc/passwd,b\n")
    archive = packed(tmp_path / "x", ".zip")
    error_line(lambda: list_images(archive), "2 of 3 paths are no files", "line 3", "/etc/passwd")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), ["holds no images", "expected folders of classes"]),
        (("a/", "b/"), ["x{form}: holds no images"]),
        (("a/",), ["x{form}/a: holds no images"]),
        (("a/1.txt", "b/2.pdf"), ["holds 2 files but no images by their names"]),
        (("1.png", "2.png"), ["holds 2 images but no folders of classes", "sort the images"]),
        (("1.png", "2.png", "3.png", "a/1.png", "b/1.png"), ["3 images but only 2 in folders of classes"]),
        (("1.png", "2.png", "x.csv", "y.csv"), ["no folders of classes", "keep one of its 2 tables"]),
        (("a/1.png", "a/2.png", "a/x.txt"), ["holds 2 images but no folders of classes"]),
        (("a/1.png", "b/2.png", "c/"), ["no images in c", "delete the folder"]),
        (("a/1.png", "b/2.png", "c/x.txt"), ["no images in c"]),
        ((*SPLITS, "train/cow/"), ["x{form}/train: no images in cow"]),
        (("train/a/1.png", "train/a/2.png"), ["holds one class, a, expected two or more"]),
        ((*SPLITS, "cow/1.png"), ["holds the folders test, train, val and cow", "splits or classes"]),
        (("val/a/1.png", "test/b/1.png"), ["but no train", "add the folder train"]),
        (("test/a/1.png", "test/b/1.png"), ["holds the folders test but no train"]),
        ((*SPLITS, "Train/cow/1.png"), ["expected one folder for each of train, val and test"]),
        (
            ("train/1.png", "train/2.png", "test/1.png"),
            ["x{form}/train: holds 2 images but no folders of classes"],
        ),
        ((*SPLITS, "test/cow/1.png"), ["test has images of cow, but train has none", "cat, dog"]),
        (("train/a/", "train/b/", "test/a/1.png"), ["holds no training images"]),
        (("x_train/a/1.png", "x_train/b/1.png", "x_test/a/1.png", "x_pred/1.png"), ["x_train", "x_test"]),
        (("train_images/1.png", "test_images/1.png"), ["splits by their names", "rename them"]),
        (
            ("a/train/1.png", "a/test/1.png", "b/Train/x/1.png", "b/val/1.png", "b/masks/1.png"),
            ["x{form}: holds test, train", "inside of each class", "expected train/CLASS/1.jpg"],
        ),
    ],
)
@pytest.mark.parametrize("form", ["", ".zip"])
def test_a_layout_that_is_not_understood_is_explained(tmp_path, form, names, words):
    folder_of(tmp_path / "x", *names)
    path = packed(tmp_path / "x", form)
    error_line(lambda: list_images(path), path, *(word.format(form=form) for word in words))


def test_a_folder_with_a_table_says_to_name_the_table(tmp_path):
    folder = folder_of(tmp_path, "1.png", "2.png", "labels.csv")
    error_line(lambda: list_images(folder), "no folders of classes", f"name its table, {folder}/labels.csv")


def test_a_table_in_an_archive_must_be_one_of_images(tmp_path):
    folder_of(tmp_path / "x", *SPLITS)
    (tmp_path / "x/ids.csv").write_text("id,meaning\n0,cat\n")
    archive = packed(tmp_path / "x", ".zip")
    error_line(lambda: list_images(archive), "x.zip/ids.csv: has the columns id, meaning")
    assert names_of(list_images(str(tmp_path / "x"))) == list(SPLITS)


def test_class_names_that_only_contain_the_names_of_splits_are_classes(tmp_path):
    listing = list_images(folder_of(tmp_path, "train_station/1.png", "test_tube/1.png", "cat/1.png"))
    assert len(listing.class_names) == 3


@pytest.mark.parametrize("names", [("a/1.png",), ("b/train/2.png",), ("b/train/2.png", "b/test/")])
def test_folders_in_one_class_alone_are_no_splits(tmp_path, names):
    listing = list_images(folder_of(tmp_path, "a/train/1.png", "a/test/1.png", "b/1.png", *names))
    assert listing.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty", "expected path, label"]),
        ("path,label\n", ["a header but no rows"]),
        ("id,breed\n1,x\n", ["has the columns id, breed", "expected path, label"]),
        ("path,split\n1.png,train\n", ["has the columns path, split"]),
        ("1.png,a\n2.png,b\n", ["has the columns 1.png, a"]),
        ("path,label,label\n1.png,a,b\n", ["two columns 'label'"]),
        ("path,label\n1.png,a\n9.png,b\n8.png,b\n", ["2 of 3 paths are no files", "line 3: '9.png'"]),
        ("path,label\n1.png,a\n2.png, \n", ["line 3 has no label"]),
        ("path,label\n1.png,a\n,b\n", ["line 3 has no path"]),
        ("path,label\n1.png,a\n2.png\n", ["line 3 has 1 values, expected 2"]),
        ("path,label\n1.png,a\n2,5.png,b\n", ["line 3 has 3 values", "quotes"]),
        ("path,label\n1.png,a\n2.png,a\n", ["holds one class, a"]),
        ("path,label,split\n1.png,a,train\n2.png,b,\n", ["line 3 has no split"]),
        ("path,label,split\n1.png,a,train\n2.png,b,dev\n", ["line 3 has the split 'dev'"]),
        ("path,label,split\n1.png,a,test\n2.png,b,test\n", ["holds no training images"]),
        ("path,label,split\n1.png,a,train\n2.png,b,test\n", ["test has images of b, but train has none"]),
        ("path,label\n1.png,a\n2.png,b\n./1.png,b\n", ["line 4 says 'b' of './1.png'", "'a'"]),
        ("path,label,split\n1.png,a,train\n1.png,a,test\n", ["line 3 says 'a' in test", "'a' in train"]),
        ("path,label\n1.png,a\n2.png,b\n".encode("utf-16"), ["is UTF-16", "save the table as UTF-8"]),
        ("path,label\n1.png,a\n".encode("utf-16-le"), ["line 1 holds a NUL byte", "UTF-8"]),
        (b"path,label\n1.png,a\0\n", ["line 2 holds a NUL byte"]),
        ("path,label\n1.png,a\n2.png,caf\u00e9\n".encode("latin-1"), ["line 3 holds the byte 0xe9"]),
        (f"path,label\n1.png,{'a' * 200_000}\n", ["line 2 cannot be read", "field larger"]),
        ('path,label\n1.png,a\n"2.png,b\n', ["cannot be read", "check the quotes"]),
        ("path,label\n.,a\n2.png,b\n", ["1 of 2 paths are no files"]),
    ],
)
def test_a_table_that_is_wrong_is_explained(tmp_path, text, words):
    path = table_of(tmp_path / "labels.csv", text, "1.png", "2.png", "2,5.png")
    error_line(lambda: list_images(path), path, *words)


@pytest.mark.parametrize("spelling", ["x/../1.png", "{0}/1.png", "x/../x/../1.png"])
def test_a_file_by_two_spellings_is_one_file(tmp_path, spelling):
    (tmp_path / "x").mkdir()
    other = spelling.format(tmp_path)
    text = f"path,label,split\n1.png,a,train\n{other},a,test\n2.png,b,train\n"
    path = table_of(tmp_path / "labels.csv", text, "1.png", "2.png")
    error_line(lambda: list_images(path), f"line 3 says 'a' in test of {other!r}", "'a' in train")


def test_a_table_beyond_reason_is_refused(tmp_path, monkeypatch):
    path = table_of(tmp_path / "labels.csv", "path,label\n1.png,a\n2.png,b\n3.png,c\n", "1.png")
    monkeypatch.setattr(listing, "MAX_ROWS", 2)
    error_line(lambda: list_images(path), path, "has more than 2 rows, the limit")
    monkeypatch.setattr(listing, "MAX_TABLE_SIZE", 20)
    error_line(lambda: list_images(path), path, "is larger than 0 MB, the limit")


@pytest.mark.parametrize("form", ["", ".zip"])
def test_a_table_finds_its_files_however_their_letters_are_composed(tmp_path, form):
    folder = folder_of(tmp_path / "photos", "caf\u00e9.png", "the\u0301.png")
    table = table_of(tmp_path / "photos/t.csv", "path,label\ncafe\u0301.png,a\nth\u00e9.png,b\n")
    found = list_images(packed(Path(folder), form) if form else table)
    assert names_of(found) == ["caf\u00e9.png", "the\u0301.png"]


def test_pictures_of_kinds_that_cannot_be_read_are_counted_by_kind(tmp_path):
    path = folder_of(tmp_path, "a/1.png", "b/2.png", "a/3.dng", "b/4.CR2", "b/5.jxl", "b/6.txt")
    assert list_images(path).passed_over == {
        "no images by their name": 1,
        "raw pictures of cameras, which cannot be read": 2,
        "JPEG XL, which cannot be read": 1,
    }


def test_a_path_that_cannot_be_images_is_explained(tmp_path):
    photo = Path(folder_of(tmp_path, "photo.jpg"), "photo.jpg")
    os.mkfifo(tmp_path / "pipe.zip")
    error_line(lambda: list_images(""), "config.data.dir='': names no images")
    error_line(
        lambda: list_images(f"{tmp_path}/nothing"), "nothing: no such file or folder", "check the path"
    )
    error_line(lambda: list_images(f"{photo}/x"), "photo.jpg/x: cannot be read")
    error_line(lambda: list_images("nul\0byte"), "cannot be read")
    error_line(lambda: list_images(str(photo)), "photo.jpg: is a file", ".zip", ".csv")
    error_line(lambda: list_images(f"{tmp_path}/pipe.zip"), "pipe.zip: is a pipe or device")


def test_a_folder_that_is_not_permitted_is_an_error(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refuse(path: str):
        if path.endswith("/b/"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    error_line(lambda: list_images(folder), "/b/: the folder cannot be listed (Permission denied)")
