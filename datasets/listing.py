"""Which images a folder, an archive or a table holds, and of which class and split each one is."""

import codecs
import csv
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from datasets.archives import Folder, TarArchive, ZipArchive
from datasets.record_folder import INDEX_FILE, RecordFolder, is_record_folder
from resnet.errors import UserError
from resnet.files import printable
from resnet.images import image_extensions, unreadable_kind
from resnet.wording import first_of

SplitName = Literal["train", "val", "test", ""]  # "" for images that are yet to be split

_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_ORDER = ("", "train", "val", "test")
MAX_TABLE_SIZE = 128 * 2**20  # bytes; a table of ImageNet's 1.28 million images has 80 million
MAX_ROWS = 5_000_000  # of a table; they take a gigabyte of memory
_TABLES = (".csv", ".tsv")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# The names that the columns of a table may have. The first one wins where there are several.
_COLUMNS = {
    "path": ("path", "filepath", "file_path", "filename", "file_name", "file", "image_path", "image"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split",),
}
_EXPECTED = (
    "expected folders of classes such as cat/1.jpg and dog/1.jpg, or these inside of train/, val/ and test/"
)

_Storage = Folder | ZipArchive | TarArchive | RecordFolder


class Source(Protocol):
    """Where the bytes of images come from: a folder or an archive.

    `square_size` is the side of its images in pixels if all are stored as squares without loss, which are
    read as fast as decoded pixels. Otherwise it is 0.
    """

    square_size: int

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        """Returns what tells a changed file without reading it: size and time, or size and checksum.

        A file that is gone has a stamp too, which no file that is there has.
        """
        ...

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes | UserError]]:
        """Yields names and contents, in the order in which they are read fastest; each name once.

        In place of the content comes a `UserError` for a file that cannot be read: one that has gone, is not
        permitted, is damaged in its archive, or is larger than `resnet.images.MAX_FILE_SIZE`. It is not
        raised, so that the others are read all the same.

        Ask for all files in one call, as each call may pass over a whole archive.
        """
        ...

    def content(self, name: str) -> bytes | UserError:
        """Returns the content of one file, or what is wrong with it. Threads may ask at the same time.

        Raises:
          UserError: the archive can only be read from front to back.
        """
        ...


class ImageFile(NamedTuple):
    """A file of an image: its name in the source, such as `train/cat/7.jpg`, its label and its split.

    A name that is not UTF-8 holds surrogate escapes. `resnet.files.printable` shows it.
    """

    name: str
    label: int
    split: SplitName


class Listing(NamedTuple):
    """All images of a data set, in the order that training and evaluation count them in.

    `layout` says in words how they are arranged, such as `train/ and val/ folders`. `passed_over` counts
    files by why they were left out, such as `hidden` or `no images by their name`.
    """

    source: Source
    files: tuple[ImageFile, ...]
    class_names: tuple[str, ...]
    layout: str
    passed_over: Mapping[str, int]


class _LabelledImage(NamedTuple):
    name: str
    class_name: str
    split: SplitName
    below: str = ""  # its path below the folder of its class


class _Row(NamedTuple):
    """A row of a table. `line` is where it ends in the file."""

    line: int
    path: str
    label: str
    split: SplitName


def list_images(path: str) -> Listing:
    """Lists the images at `path` without decoding them.

    `path` is one of these:

    - a folder `{train,val,test}/CLASS/...`. The names of splits may be in any case; `valid`, `validation`,
      `training` and `testing` are understood. `val` and `test` may be missing.
    - a folder `CLASS/...`, whose images are yet to be split.
    - a table, .csv or .tsv, in UTF-8, whose header names `path`, `label` and perhaps `split`. Paths are
      relative to its folder, or absolute.
    - a .zip or .tar archive of any of these, which is not unpacked. A table counts if it is the only one at
      the top of the archive.
    - a folder of records, which `python -m datasets.records` packs from any of the others.

    Images may lie anywhere below the folder of their class. A folder that holds nothing but one folder stands
    for that folder. Hidden files, and those without the extension of an image, are passed over and counted.

    Classes are in natural order (class2 before class10), and their index is the label. They are those of the
    training images: a class that only val or test has is an error, and one that they lack is not.

    The images of folders are sorted by split (train, val, test), then by their path below the folder of their
    class, in natural order, then by class. Those of a table have the order of its rows.

    Raises:
      UserError: there is nothing at `path`, it is not one of these, it has fewer than two classes or a class
        without training images, or it contradicts itself.
    """
    storage, table = _open(path)
    # A folder of records lists its files in its table alone.
    if isinstance(storage, RecordFolder) or table:
        return _list_table(storage, table)
    names, passed_over = storage.entries()
    images = [name for name in sorted(names) if name.endswith("/") or _is_image(name)]
    others = sorted(set(names).difference(images))
    tables = [name for name in others if name.lower().endswith(_TABLES)]
    root = _inner_folder([*images, *tables])
    tables = [name for name in tables if "/" not in name[len(root) :]]
    if len(tables) == 1 and not isinstance(storage, Folder):
        return _list_table(storage, tables[0], images, passed_over)
    kinds = Counter(kind for name in others if (kind := unreadable_kind(name)))
    passed_over["no images by their name"] = len(others) - kinds.total()
    passed_over.update({f"{kind}, which cannot be read": count for kind, count in kinds.items()})
    return _list_folders(storage, images, passed_over, root=root, tables=tables)


def check_classes(listing: Listing, unreadable: Mapping[int, str], path: str) -> None:
    """Checks that each class has a training image that can be read.

    `unreadable` is what is wrong with the other training images, by their place in the listing of `path`.

    Raises:
      UserError: a class has none.
    """
    training = [(i, file.label) for i, file in enumerate(listing.files) if file.split in ("", "train")]
    readable = {label for i, label in training if i not in unreadable}
    for i, label in training:
        if label not in readable:
            raise UserError(
                f"{printable(path)}: class {listing.class_names[label]}: none of its training images can be"
                " read, expected one at least; replace them, or leave the class out, such as:"
                f" {unreadable[i]}"
            )


def natural_key(name: str) -> str:
    """Returns a key that sorts names as people do: class2 before class10, and a before B.

    Names such as 1 and 01, or a and A, have the same key.
    """
    # A number is written as its number of digits and then its digits, without leading zeros. So a longer one
    # is a larger one.
    return re.sub(
        "0*([0-9]+)",
        lambda number: f"0{chr(len(number[1]))}{number[1]}",
        name.casefold().replace("/", "\0"),
    )


def _open(path: str) -> tuple[_Storage, str]:
    """Returns the folder or archive at `path`, or the folder of the table at `path` and the table's name."""
    _check_is_file_or_folder(path)
    if os.path.isdir(path) and is_record_folder(path):
        return RecordFolder(path), INDEX_FILE
    if os.path.isdir(path):
        return Folder(path), ""
    lower = path.lower()
    if lower.endswith(_TABLES):
        folder, table = os.path.split(path)
        return Folder(folder), table
    if lower.endswith(".zip"):
        return ZipArchive(path), ""
    if lower.endswith(_TARS):
        return TarArchive(path), ""
    raise UserError(
        f"{printable(path)}: is a file, expected a folder, an archive ({', '.join(('.zip', *_TARS))}) or a"
        f" table ({', '.join(_TABLES)}); name the folder that holds the images"
    )


def _check_is_file_or_folder(path: str) -> None:
    if not path:
        raise UserError(
            "config.data.dir='': names no images; expected a folder, an archive or a table, such as"
            " --config.data.dir=photos"
        )
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(
            f"{printable(path)}: no such file or folder, expected images; check the path"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(path)}: cannot be read ({reason}); check its permissions") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise UserError(f"{printable(path)}: is a pipe or device, {_EXPECTED}; name a folder")


# Folders of classes


def _list_folders(
    storage: _Storage, names: Sequence[str], passed_over: Counter[str], *, root: str, tables: Sequence[str]
) -> Listing:
    """Lists the images in the folders of classes inside of `root`, such as `cifar10/`.

    `names` are those of images and folders, and `tables` those that lie beside the folders of classes.
    """
    place = os.path.join(storage.path, root.rstrip("/")) if root else storage.path
    hint = _hint_of_tables(storage, tables)
    names = [name[len(root) :] for name in names if len(name) > len(root)]
    if not _files_in(names):
        others = passed_over["no images by their name"]
        content = f"{others:,} files but no images by their names" if others else "no images"
        raise UserError(f"{printable(place)}: holds {content}; {_EXPECTED}{hint}")
    loose, folders = _by_folder(names)
    splits = _split_folders(folders, place)
    images: list[_LabelledImage] = []
    if not splits:
        _check_classes_hold_no_splits(folders, place)
        images = _labelled_images(folders, prefix=root, split="", place=place)
    for folder, split in splits.items():
        files, classes = _by_folder(folders[folder])
        place_of_split = os.path.join(place, folder)
        in_classes = _labelled_images(classes, prefix=f"{root}{folder}/", split=split, place=place_of_split)
        _check_most_are_in_classes(len(files), len(in_classes), place_of_split, hint)
        loose += files
        images += in_classes
    _check_most_are_in_classes(len(loose), len(images), place, hint)
    passed_over["beside the class folders"] = len(loose)
    return _listing(
        storage, _sorted(images), place=place, layout=_layout(root, splits), passed_over=passed_over
    )


def _inner_folder(names: Iterable[str]) -> str:
    """Returns the folder, such as `cifar10/`, that lies around all images, or "" if there is none.

    Neither a folder called train is one, nor a folder that has a table beside it.
    """
    root = ""
    while True:
        files, folders = _by_folder(names)
        if files or len(folders) != 1 or any(map(_split_of, folders)):
            return root
        ((folder, names),) = folders.items()
        root += f"{folder}/"


def _by_folder(names: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the files at the top, and for each folder at the top the names below it, if there are any."""
    files: list[str] = []
    folders: dict[str, list[str]] = {}
    for name in names:
        top, slash, below = name.partition("/")
        if slash:
            inside = folders.setdefault(top, [])
            if below:
                inside.append(below)
        elif name:
            files.append(name)
    return files, folders


def _split_folders(folders: Mapping[str, list[str]], place: str) -> dict[str, SplitName]:
    """Returns the folders that are splits, in the order train, val, test, or none if all are classes."""
    splits = {folder: split for folder in folders if (split := _split_of(folder))}
    classes = [folder for folder in folders if folder not in splits and _files_in(folders[folder])]
    problem = ""
    if not splits:
        if similar := _folders_like_splits(folders):
            problem = f"{similar}, which are splits by their names, expected train, val and test; rename them"
    elif classes:
        if set(splits.values()) == {"train"} and all(_is_flat(folders[folder]) for folder in splits):
            return {}  # Trains are a class, beside cars and planes.
        problem = f"{_some(splits)} and {_some(classes)}, expected splits or classes; move classes into train"
    elif "train" not in splits.values():
        problem = f"{_some(splits)} but no train, expected images to train on; add the folder train"
    elif len(set(splits.values())) < len(splits):
        problem = f"{_some(splits)}, expected one folder for each of train, val and test; put them together"
    if problem:
        raise UserError(f"{printable(place)}: holds the folders {problem}")
    return dict(sorted(splits.items(), key=lambda item: _SPLIT_ORDER.index(item[1])))


def _folders_like_splits(folders: Mapping[str, list[str]]) -> str:
    """Returns in words the folders that are hardly classes, such as seg_train and seg_test, or ""."""
    similar = {
        folder: split
        for folder in folders
        for word in re.split("[^a-z]+", folder.lower())
        if (split := _split_of(word))
    }
    # A train_station and a test_tube are classes if they hold images themselves, as other classes do.
    are_classes = len(similar) < len(folders) and any(_is_flat(folders[folder]) for folder in similar)
    return "" if are_classes or not {"train"} < set(similar.values()) else _some(similar)


def _check_classes_hold_no_splits(classes: Mapping[str, list[str]], place: str) -> None:
    """Raises UserError if there are splits inside of each class, whose images would be split anew."""
    inside: dict[str, None] = {}
    for names in classes.values():
        files, folders = _by_folder(names)
        splits = {folder: _split_of(folder) for folder, below in folders.items() if _files_in(below)}
        if files or not {"train"} < {split for split in splits.values() if split}:
            return
        inside |= dict.fromkeys(folder for folder, split in splits.items() if split)
    if inside:
        raise UserError(
            f"{printable(place)}: holds {_some(inside)} inside of each class, expected train/CLASS/1.jpg and"
            " the like; move them, or name the images in a table"
        )


def _labelled_images(
    classes: Mapping[str, list[str]], *, prefix: str, split: SplitName, place: str
) -> list[_LabelledImage]:
    """Returns the images of folders of classes, the names of whose files begin with `prefix`.

    Raises:
      UserError: a folder has no images, and is not one of validation or test. Or two are of one class.
    """
    counts = Counter(map(class_name_of, classes))
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"{printable(place)}: holds two folders of the class {_some(repeated)}, whose names are written"
            " differently, expected one for each class; put their images together, or rename one"
        )
    empty = [folder for folder in classes if not _files_in(classes[folder])]
    if empty and len(empty) < len(classes) and split in ("", "train"):
        raise UserError(
            f"{printable(place)}: no images in {_some(empty)}, expected some in the folder of each class;"
            " add images, or delete the folder"
        )
    return [
        _LabelledImage(f"{prefix}{folder}/{name}", class_name, split, name)
        for folder, names in classes.items()
        for class_name in [class_name_of(folder)]
        for name in names
        if not name.endswith("/")
    ]


def _check_most_are_in_classes(loose: int, in_classes: int, place: str, hint: str) -> None:
    """Raises UserError if more images lie beside the folders of classes than in them."""
    if loose > in_classes:
        inside = f"only {in_classes:,} in folders of classes" if in_classes else "no folders of classes"
        raise UserError(
            f"{printable(place)}: holds {loose:,} images but {inside}; {_EXPECTED}; sort the images into a"
            f" folder for each class{hint}"
        )


def _layout(root: str, splits: Iterable[str]) -> str:
    *first, last = [f"{printable(folder)}/" for folder in splits] or ["class"]
    words = f"{', '.join(first)} and {last} folders" if first else f"{last} folders"
    return f"{words} of {printable(root)}" if root else words


def _hint_of_tables(storage: _Storage, tables: Sequence[str]) -> str:
    if not tables:
        return ""
    if len(tables) > 1:
        return f"; or keep one of its {len(tables)} tables, with the columns path and label"
    return f"; or name its table, {printable(os.path.join(storage.path, tables[0]))}"


# Tables


def _list_table(
    storage: _Storage, table: str, names: Iterable[str] = (), passed_over: Mapping[str, int] | None = None
) -> Listing:
    """Lists the images that a table names.

    Of the archive that holds it, `names` are those of images and folders, and `passed_over` the counts.
    """
    place = printable(os.path.join(storage.path, table))
    ((_, content),) = storage.contents([table])
    if isinstance(content, UserError):
        raise content
    # What was packed is read, however many images it has.
    is_index = isinstance(storage, RecordFolder)
    if len(content) > MAX_TABLE_SIZE and not is_index:
        raise UserError(f"{place}: is larger than {MAX_TABLE_SIZE // 2**20} MB, the limit; take a part of it")
    rows = _read_table(content, place, is_index=is_index)
    images = _images_of_rows(rows, storage, table, place)
    passed_over = Counter(passed_over or {})
    passed_over["named more than once"] = len(rows) - len(images)
    passed_over["not in the table"] = _files_in(set(names) - {image.name for image in images})
    layout = f"the table {printable(os.path.basename(table))}"
    return _listing(storage, images, place=place, layout=layout, passed_over=passed_over)


def _read_table(content: bytes, place: str, *, is_index: bool) -> list[_Row]:
    """Returns the rows of a table in UTF-8, with or without a byte order mark.

    Its separator is the comma, semicolon or tab, whichever the header has most of. Spaces around values
    are left out. `is_index` says that it is the index of a folder of records: then spaces are part of a name,
    and any number of rows is read.

    Raises:
      UserError: the table is in another encoding, is damaged, or lacks a column or a value.
    """
    text = _decoded(content, place)
    separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    records = _records(text, separator, place)
    _, header = next(records, (0, []))
    columns = _columns(header, place)
    rows = []
    for line, record in records:
        if len(rows) == MAX_ROWS and not is_index:
            raise UserError(f"{place}: has more than {MAX_ROWS:,} rows, the limit; take a part of them")
        if len(record) != len(header):
            raise UserError(
                f"{place}: line {line} has {len(record)} values, expected {len(header)} as in the header;"
                " put values that hold a separator into quotes"
            )
        values = {name: record[column] for name, column in columns.items()}
        if not is_index:
            values = {name: value.strip() for name, value in values.items()}
        if missing := [name for name in ("path", "label") if not values[name]]:
            raise UserError(f"{place}: line {line} has no {missing[0]}, expected one in every row; add it")
        split = values.get("split", "")
        if split and not _split_of(split):
            raise UserError(
                f"{place}: line {line} has the split {split!r}, expected train, val or test; rename it"
            )
        rows.append(_Row(line, values["path"], class_name_of(values["label"]), _split_of(split)))
    unsplit = [row for row in rows if not row.split]
    if 0 < len(unsplit) < len(rows):
        raise UserError(
            f"{place}: line {unsplit[0].line} has no split, expected one in every row or in none; add it"
        )
    return rows


def _decoded(content: bytes, place: str) -> str:
    remedy = "expected UTF-8; save the table as UTF-8 (in Excel: CSV UTF-8)"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{place}: is UTF-16, {remedy}")
    content = content.removeprefix(codecs.BOM_UTF8)
    nul = content.find(b"\0")
    if nul >= 0:
        raise UserError(f"{place}: line {_line_at(content, nul)} holds a NUL byte, {remedy}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = _line_at(content, error.start)
        raise UserError(
            f"{place}: line {line} holds the byte 0x{content[error.start]:02x}, which is not UTF-8, {remedy}"
        ) from None


def _line_at(content: bytes, offset: int) -> int:
    return len(content[: offset + 1].splitlines())


def _records(text: str, separator: str, place: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of the last line of each record that is not blank, and its values."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for record in reader:
            if any(map(str.strip, record)):
                yield reader.line_num, record
    except csv.Error as error:
        raise UserError(
            f"{place}: line {reader.line_num} cannot be read ({error}), expected values between separators;"
            " check the quotes"
        ) from None


def _columns(header: Sequence[str], place: str) -> dict[str, int]:
    """Returns the indices of the columns path, label and, if there is one, split."""
    names = [name.strip().casefold() for name in header]
    columns = {}
    for column, synonyms in _COLUMNS.items():
        present = [synonym for synonym in synonyms if synonym in names]
        if present and names.count(present[0]) > 1:
            raise UserError(f"{place}: has two columns {present[0]!r}, expected one; rename the other")
        if present:
            columns[column] = names.index(present[0])
    if not {"path", "label"} <= columns.keys():
        content = f"has the columns {_some(header)}" if header else "is empty"
        raise UserError(
            f"{place}: {content}, expected path, label and perhaps split in the first line; add such a header"
        )
    return columns


def _images_of_rows(rows: Sequence[_Row], storage: _Storage, table: str, place: str) -> list[_LabelledImage]:
    """Returns the images in the order in which the table names them first.

    Raises:
      UserError: the table names no image, one that is not there, or one with two labels or splits.
    """
    images: dict[str, _LabelledImage] = {}
    missing = []
    for row in rows:
        name = storage.locate(row.path, table)
        if name is None:
            missing.append(row)
            continue
        image = _LabelledImage(name, row.label, row.split)
        first = images.setdefault(name, image)
        if first != image:
            raise UserError(
                f"{place}: line {row.line} says {_words(image)} of {row.path!r}, but a line above"
                f" says {_words(first)}; keep one of them"
            )
    if missing:
        raise UserError(
            f"{place}: {len(missing):,} of {len(rows):,} paths are no files, the first in line"
            f" {missing[0].line}: {missing[0].path!r}; expected paths relative to the folder of"
            " the table; correct them"
        )
    if not rows:
        raise UserError(f"{place}: has a header but no rows, expected one for each image; add them")
    return list(images.values())


def _words(image: _LabelledImage) -> str:
    return f"{image.class_name!r} in {image.split}" if image.split else repr(image.class_name)


# Classes and the order of images


def _listing(
    storage: _Storage,
    images: Sequence[_LabelledImage],
    *,
    place: str,
    layout: str,
    passed_over: Mapping[str, int],
) -> Listing:
    class_names = _class_names(images, place)
    labels = {name: label for label, name in enumerate(class_names)}
    files = tuple(ImageFile(image.name, labels[image.class_name], image.split) for image in images)
    return Listing(storage, files, class_names, layout, {r: n for r, n in passed_over.items() if n})


def _class_names(images: Sequence[_LabelledImage], place: str) -> tuple[str, ...]:
    """Returns the classes of the training images in natural order.

    Raises:
      UserError: there are fewer than two, or other images have classes that these lack.
    """
    classes: dict[str, dict[str, None]] = {}
    for image in images:
        classes.setdefault(image.split, {})[image.class_name] = None
    train = classes.get("train") or classes.get("")
    if not train:
        raise UserError(f"{place}: holds no training images; {_EXPECTED}; add images to train")
    for split in ("val", "test"):
        if others := [name for name in classes.get(split, ()) if name not in train]:
            raise UserError(
                f"{place}: {split} has images of {_some(others)}, but train has none; expected the classes of"
                f" train, {_some(train)}; add images to train, or rename or remove the class"
            )
    if len(train) < 2:
        raise UserError(
            f"{place}: holds one class, {_some(train)}, expected two or more; add another, with images"
        )
    return tuple(sorted(train, key=lambda name: (natural_key(name), name)))


def _sorted(images: Sequence[_LabelledImage]) -> list[_LabelledImage]:
    """Sorts images by split, then by path below the folder of their class, then by class."""
    classes = {name: (natural_key(name), name) for name in {image.class_name for image in images}}
    return sorted(
        images,
        key=lambda image: (
            _SPLIT_ORDER.index(image.split),
            natural_key(image.below),
            image.below,
            classes[image.class_name],
            image.name,
        ),
    )


def class_name_of(text: str) -> str:
    """Returns a class as it is shown. macOS writes é as two characters, others as one: they are one class."""
    return printable(unicodedata.normalize("NFC", text))


def _split_of(text: str) -> SplitName:
    return _SPLITS.get(text.casefold(), "")


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_extensions()


def _is_flat(names: Iterable[str]) -> bool:
    """Returns whether a folder has files but no folders in it."""
    return not any("/" in name for name in names)


def _files_in(names: Iterable[str]) -> int:
    return sum(not name.endswith("/") for name in names)


def _some(names: Iterable[str]) -> str:
    return first_of([printable(name) for name in names], 5)
