"""A packed folder trains as its source does, goes on where packing stopped, and its damage is named."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from datasets import folder, listing, records
from datasets.decoding import Square
from datasets.listing import list_images
from datasets.record_folder import RecordFolder
from datasets.records import check, pack
from datasets.types import Dataset
from resnet.errors import UserError
from tests.command_line import run_program
from tests.datasets.errors import error_line
from tests.datasets.listings import BROKEN, noisy, png
from tests.datasets.test_folder import data_config

FILES = {
    f"{split}/{name}/{i}.png": png(noisy(10 * i + len(split), 12 + i, 13))
    for split in ("train", "test")
    for name in ("cat", 'zwölf, "dog" ✋')
    for i in range(4)
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of `FILES`."""
    for name, content in FILES.items():
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "photos"


def archive(path: Path, kind: str) -> Path:
    """Packs `FILES` into an archive beside `path`."""
    file = path.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as target:
            for name, content in FILES.items():
                target.writestr(name, content)
    else:
        with tarfile.open(file, "w:gz") as target:
            for name, content in reversed(FILES.items()):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))
    return file


def loaded(place: Path, **fields: object) -> Dataset:
    return folder.load(data_config(dir=str(place), **fields))


def assert_same_data(one: Dataset, other: Dataset) -> None:
    assert one.class_names == other.class_names
    for a, b in zip((one.train, one.test), (other.train, other.test), strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.files, b.files)
        assert a.digest() == b.digest()


@pytest.mark.parametrize("placement", ["device", "stream"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tgz"])
def test_records_hold_the_images_of_their_source_in_its_order(
    tmp_path: Path, photos: Path, kind: str, placement: str
) -> None:
    source = photos if kind == "folder" else archive(photos, kind)
    assert pack(str(source), tmp_path / "packed", shard_bytes=3000) == []
    assert check(tmp_path / "packed") > 1
    assert_same_data(loaded(tmp_path / "packed", placement=placement), loaded(source))


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_resized_records_hold_the_squares_without_loss(tmp_path: Path, photos: Path, placement: str) -> None:
    pack(str(photos), tmp_path / "packed", Square(8, 1.0, "pad"))
    assert RecordFolder(str(tmp_path / "packed")).square_size == 8
    packed = loaded(tmp_path / "packed", placement=placement, fit="pad")
    assert_same_data(packed, loaded(photos, fit="pad"))


def test_resized_records_are_not_loaded_with_another_fit(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "packed"
    pack(str(photos), out, Square(8, 1.0, "pad"))
    line = error_line(lambda: loaded(out, fit="crop"), "set it to pad, or pack the images again")
    assert line.startswith(f"config.data.fit=crop: {out} was packed with --fit=pad, expected the same")
    settings = json.loads((out / "records.json").read_text())
    del settings["fit"]
    (out / "records.json").write_text(json.dumps(settings))
    error_line(lambda: loaded(out, fit="pad"), f"{out}/records.json: does not say how its images became")


def test_records_of_whole_files_are_loaded_with_any_fit(tmp_path: Path, photos: Path) -> None:
    pack(str(photos), tmp_path / "packed")
    assert_same_data(loaded(tmp_path / "packed", fit="stretch"), loaded(photos, fit="stretch"))


def test_spaces_around_the_names_of_classes_and_files_are_kept(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/1.png", "cat /1.png", " cat/ 1.png", "dog/1.png ~.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(png(noisy(i)))
    pack(str(tmp_path / "photos"), tmp_path / "packed")
    listing = list_images(str(tmp_path / "packed"))
    assert listing.class_names == list_images(str(tmp_path / "photos")).class_names
    assert set(listing.class_names) == {" cat", "cat", "cat ", "dog"}
    packed, source = loaded(tmp_path / "packed"), loaded(tmp_path / "photos")
    assert packed.train.files.tolist() == source.train.files.tolist()
    assert packed.train.digest() == source.train.digest()


def test_images_that_have_no_splits_are_split_alike(tmp_path: Path, photos: Path) -> None:
    pack(str(photos / "train"), tmp_path / "packed")
    fields = {"test_fraction": 0.25}
    assert_same_data(loaded(tmp_path / "packed", **fields), loaded(photos / "train", **fields))


def test_packing_goes_on_where_it_was_interrupted(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, written = tmp_path / "packed", records._write_shard, []

    def killed_at_the_third(*arguments: object) -> records.Packed:
        written.append(arguments[1])
        if len(written) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(records, "_write_shard", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), out, shard_bytes=3000)
    with pytest.raises(UserError, match=r"packed: is not packed to the end; run the same command again$"):
        loaded(out)
    with pytest.raises(UserError, match=r"packed: holds a part of other images, or of the same with other"):
        pack(str(photos), out, Square(8, 1.0, "crop"))
    (out / "shard-00002.tmp").write_bytes(b"half")
    pack(str(photos), out, shard_bytes=3000)
    assert written[:4] == [0, 1, 2, 2]
    assert sorted({file.suffix for file in out.iterdir()}) == [".array_record", ".csv", ".json"]
    assert_same_data(loaded(out), loaded(photos))
    with pytest.raises(UserError, match=r"packed: is packed already; choose another folder"):
        pack(str(photos), out)


def test_nothing_is_written_among_other_files(tmp_path: Path, photos: Path) -> None:
    before = sorted(photos.rglob("*"))
    with pytest.raises(UserError, match=r"photos: holds other files, expected a new or an empty folder"):
        pack(str(photos), photos)
    assert sorted(photos.rglob("*")) == before


def test_nothing_is_written_into_the_source(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    before = sorted(photos.rglob("*"))
    for out in (photos / "packed", photos / "train/packed", tmp_path / "link/packed"):
        line = error_line(lambda out=out: pack(str(photos), out), "choose one beside it")
        assert line.startswith(f"{out}: lies inside of {photos}, expected a folder outside")
    assert sorted(photos.rglob("*")) == before


def test_the_limits_of_tables_are_not_those_of_records(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_ROWS", 2)
    monkeypatch.setattr(listing, "MAX_TABLE_SIZE", 20)
    pack(str(photos), tmp_path / "packed")
    assert len(list_images(str(tmp_path / "packed")).files) == len(FILES)


def test_an_index_that_could_not_be_read_is_refused_before_packing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(str(photos), tmp_path / "packed")
    size = (tmp_path / "packed/index.csv").stat().st_size
    monkeypatch.setattr(records, "MAX_INDEX_SIZE", size)
    line = error_line(lambda: pack(str(photos), tmp_path / "more"), f"more than {size:,} bytes")
    assert line.startswith(f"{photos}: the index of its {len(FILES)} images")
    assert not (tmp_path / "more").exists()


def test_a_fit_without_a_size_is_refused(tmp_path: Path, photos: Path) -> None:
    result = run_program("-m", "datasets.records", photos, tmp_path / "packed", "--fit=pad")
    assert result.returncode == 2
    assert result.stderr == "error: --fit=pad: is for pictures that are resized; set their side by --size\n"
    assert not (tmp_path / "packed").exists()


def test_files_that_cannot_be_read_are_left_out_with_a_warning(tmp_path: Path, photos: Path) -> None:
    (photos / "train/cat/1.png").write_bytes(BROKEN)
    out = tmp_path / "packed"
    result = run_program("-m", "datasets.records", str(photos), str(out), "--size=8")
    assert result.returncode == 0, result.stderr
    assert "packed; train on it with --config.data.name=folder --config.data.dir=" in result.stdout
    assert "warning: left out: train/cat/1.png: is not an image" in result.stderr
    assert len(list_images(str(out)).files) == len(FILES) - 1


def test_a_class_of_which_nothing_can_be_read_is_refused(tmp_path: Path, photos: Path) -> None:
    for i in range(4):
        (photos / f"train/cat/{i}.png").write_bytes(BROKEN)
    out = tmp_path / "packed"
    error_line(
        lambda: pack(str(photos), out, Square(8, 1.0, "crop")),
        f"{photos}: class cat: none of its training images can be read",
        "leave the class out, such as: train/cat/0.png: is not an image",
    )
    assert not (out / "records.json").exists()


def test_every_flipped_byte_of_a_shard_is_noticed_or_does_no_harm(tmp_path: Path, photos: Path) -> None:
    pack(str(photos), tmp_path / "packed")
    (shard,) = (tmp_path / "packed").glob("*.array_record")
    whole, noticed = shard.read_bytes(), 0
    for place in range(7, len(whole), len(whole) // 150):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        # The reader of each path is kept, so each damage has its own.
        out = tmp_path / f"damaged_{place}"
        out.mkdir()
        for name in ("records.json", "index.csv"):
            (out / name).write_bytes((tmp_path / "packed" / name).read_bytes())
        (out / shard.name).write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged \\(its checksum is another\\)"):
            check(out)
        for name, content in RecordFolder(str(out)).contents(list(FILES)):
            if isinstance(content, UserError):
                noticed += 1
                assert str(content).startswith(f"{out / shard.name}: is damaged (")
            else:
                assert content == FILES[name]
    assert noticed


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("shard-00000.array_record", lambda b: b[:-1], "is damaged (it has "),
        ("shard-00000.array_record", None, "cannot be read (No such file or directory); pack it again"),
        ("index.csv", None, "is missing; pack it again with"),
        ("index.csv", lambda b: b[: b[:-1].rindex(b"\n") + 1], "is damaged (its checksum is another)"),
        ("records.json", lambda b: b[:-9], "is not JSON"),
        ("records.json", lambda b: b.replace(b'"shard-', b'"../shard-'), "does not match"),
        ("records.json", lambda b: b.replace(b'"version": 1', b'"version": 2'), "1 was expected"),
        ("records.json", lambda b: b.replace(b'"index_sha256"', b'"index"'), "is a required property"),
    ],
)
def test_damage_is_one_line(
    tmp_path: Path, photos: Path, name: str, edit: Callable[[bytes], bytes] | None, message: str
) -> None:
    out = tmp_path / "packed"
    pack(str(photos), out)
    if edit is None:
        (out / name).unlink()
    else:
        (out / name).write_bytes(edit((out / name).read_bytes()))
    for read in (loaded, check):
        line = error_line(lambda read=read: read(out))
        assert line.startswith(f"{out / name}: ")
        assert message in line


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda b: b.replace(b",0,1", b",7,1"), "is damaged (there is no shard 7)"),
        (lambda b: b.replace(b",0,1\r", b",0,99\r"), "is damaged (shard 0 has no record 99)"),
        (lambda b: b.replace(b"shard", b"shred"), "is damaged ('shard'), expected the columns"),
        (lambda b: b"\xff" + b, "is damaged ("),
    ],
)
def test_an_index_whose_checksum_was_made_to_fit_is_one_line(
    tmp_path: Path, photos: Path, edit: Callable[[bytes], bytes], message: str
) -> None:
    out = tmp_path / "packed"
    pack(str(photos), out)
    index = edit((out / "index.csv").read_bytes())
    (out / "index.csv").write_bytes(index)
    settings = json.loads((out / "records.json").read_text())
    settings["index_sha256"] = sha256(index).hexdigest()
    (out / "records.json").write_text(json.dumps(settings))
    line = error_line(lambda: loaded(out), message)
    assert line.startswith(f"{out / 'index.csv'}: ")


def test_a_folder_that_was_not_packed_is_not_checked(tmp_path: Path, photos: Path) -> None:
    error_line(lambda: check(photos), "holds no records.json")
    error_line(lambda: check(tmp_path / "missing"), "holds no records.json")


def test_a_folder_of_records_can_be_read_by_another_process(tmp_path: Path, photos: Path) -> None:
    pack(str(photos), tmp_path / "packed")
    copy = pickle.loads(pickle.dumps(RecordFolder(str(tmp_path / "packed"))))
    name = next(iter(FILES))
    assert copy.content(name) == FILES[name]


def test_the_settings_name_each_shard_with_its_checksum(tmp_path: Path, photos: Path) -> None:
    pack(str(photos), tmp_path / "packed")
    settings = json.loads((tmp_path / "packed/records.json").read_text())
    (shard,) = settings["shards"]
    assert shard["records"] == len(FILES)
    assert shard["bytes"] == (tmp_path / "packed" / shard["file"]).stat().st_size
