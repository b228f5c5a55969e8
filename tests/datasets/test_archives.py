"""Archives and folders: what they hold, in which order it is read, and what is refused or reported."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from datasets import archives
from datasets.archives import Folder, TarArchive, ZipArchive
from resnet.errors import UserError
from resnet.files import printable
from tests.datasets.errors import error_line

FILES = {"b/1.png": b"one", "a/2.png": b"x" * 1024, "a/3.png": b"", "a/4.png": b"y" * 1500}


def zip_of(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return str(path)


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Returns a header of a tar archive with the given fields, and its content."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header, content


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for header, content in members:
            archive.addfile(header, io.BytesIO(content))
    return str(path)


def folder_of(path: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


@pytest.fixture(params=["folder", "zip", "tar", "tar.gz"])
def storage(request, tmp_path):
    """A folder or an archive of FILES."""
    if request.param == "folder":
        return Folder(folder_of(tmp_path / "x", FILES))
    path = tmp_path / f"x.{request.param}"
    if request.param == "zip":
        return ZipArchive(zip_of(path, FILES))
    mode = "w:gz" if request.param == "tar.gz" else "w"
    return TarArchive(tar_of(path, *(member(*file) for file in FILES.items()), mode=mode))


def test_contents_are_read_once_each_in_any_order_of_asking(storage):
    names = [*reversed(FILES), *FILES]
    contents = list(storage.contents(names))
    assert len(contents) == len(FILES)
    assert dict(contents) == FILES
    assert dict(storage.contents(["a/2.png"])) == {"a/2.png": FILES["a/2.png"]}
    assert list(storage.contents([])) == []


def test_a_source_serves_other_processes(storage):
    assert dict(pickle.loads(pickle.dumps(storage)).contents(FILES)) == FILES


def test_archives_are_read_in_their_own_order(tmp_path):
    tar = tar_of(tmp_path / "x.tar", *(member(*file) for file in FILES.items()))
    for archive in (ZipArchive(zip_of(tmp_path / "x.zip", FILES)), TarArchive(tar)):
        assert [name for name, _ in archive.contents(sorted(FILES))] == list(FILES)


def test_a_compressed_tar_is_never_sought_backwards(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "x.tgz", *(member(*file) for file in FILES.items()), mode="w:gz")
    steps = []
    seek = gzip.GzipFile.seek

    def record(file, offset, whence=io.SEEK_SET):
        position = seek(file, 0, io.SEEK_CUR)
        steps.append(offset - position if whence == io.SEEK_SET else offset)
        return seek(file, offset, whence)

    archive = TarArchive(path)
    monkeypatch.setattr(gzip.GzipFile, "seek", record)
    assert dict(archive.contents(FILES)) == FILES
    assert min(steps) >= 0


def test_the_stamp_of_an_edited_file_changes(tmp_path):
    folder = Folder(folder_of(tmp_path / "x", FILES))
    before = folder.stamps(FILES)
    (tmp_path / "x/b/1.png").write_bytes(b"ONE")
    os.utime(tmp_path / "x/b/1.png", ns=(1, 1))
    (tmp_path / "x/a/4.png").unlink()
    after = folder.stamps(FILES)
    assert [name for name in FILES if before[name] != after[name]] == ["b/1.png", "a/4.png"]

    edited = FILES | {"b/1.png": b"ONE"}
    zips = [ZipArchive(zip_of(tmp_path / f"{i}.zip", files)) for i, files in enumerate((FILES, edited))]
    before, after = (archive.stamps(FILES) for archive in zips)
    assert [name for name in FILES if before[name] != after[name]] == ["b/1.png"]

    path = tmp_path / "x.tar"
    stamps = []
    for time in (1, 2):
        tar_of(path, *(member(*file) for file in FILES.items()))
        os.utime(path, ns=(time, time))
        stamps.append(TarArchive(str(path)).stamps(["a/2.png"]))
    assert stamps[0] != stamps[1]


def test_a_file_that_cannot_be_read_is_reported_and_the_others_are_read(tmp_path):
    folder = Folder(folder_of(tmp_path, FILES))
    (tmp_path / "b/1.png").unlink()
    (tmp_path / "a/2.png").unlink()
    os.mkfifo(tmp_path / "a/2.png")
    (tmp_path / "a/3.png").unlink()
    (tmp_path / "a/3.png").symlink_to(tmp_path / "a/3.png")

    contents = dict(folder.contents(FILES))

    assert "b/1.png: is no longer there" in str(contents["b/1.png"])
    assert "a/2.png: is a pipe" in str(contents["a/2.png"])
    assert "a/3.png: cannot be read (Too many levels of symbolic links)" in str(contents["a/3.png"])
    assert contents["a/4.png"] == FILES["a/4.png"]


def test_a_file_above_the_limit_is_reported_and_not_read(storage, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_SIZE", 1200)
    contents = dict(storage.contents(FILES))
    assert isinstance(contents["a/4.png"], UserError)
    assert "a/4.png: is larger than" in str(contents.pop("a/4.png"))
    assert contents == {name: content for name, content in FILES.items() if name != "a/4.png"}


def test_an_archive_that_has_changed_reports_what_has_gone(tmp_path):
    tar = TarArchive(tar_of(tmp_path / "x.tar", *(member(*file) for file in FILES.items())))
    tar_of(tmp_path / "x.tar", member("a/2.png", b"new"))
    contents = dict(tar.contents(["a/2.png", "b/1.png"]))
    assert contents["a/2.png"] == b"new"
    assert "b/1.png: is no longer there" in str(contents["b/1.png"])

    packed = ZipArchive(zip_of(tmp_path / "x.zip", FILES))
    zip_of(tmp_path / "x.zip", {"c/9.png": b"9" * 5000})
    contents = dict(packed.contents(FILES))
    assert contents.keys() == FILES.keys()
    for name, content in contents.items():
        assert f"x.zip/{name}: is damaged in its archive (" in str(content)


@pytest.mark.parametrize("name", ["/etc/1.png", "../1.png", "a/../../1.png", "C:/1.png", "a/.."])
def test_an_archive_with_names_outside_of_it_is_refused(tmp_path, name):
    words = (repr(name), "outside of the archive")
    zip_path = zip_of(tmp_path / "x.zip", FILES | {name: b"x"})
    error_line(lambda: ZipArchive(zip_path), f"{zip_path}: holds", *words)
    tar_path = tar_of(tmp_path / "x.tar", member("a/1.png"), member(name, b"x"))
    error_line(lambda: TarArchive(tar_path), f"{tar_path}: holds", *words)


def test_an_archive_with_names_of_too_many_parts_is_refused(tmp_path):
    deep = "a/" * 255 + "1.png"
    for i, files in enumerate(({deep: b"x"}, {"b/" + deep: b"x"})):
        paths = (
            zip_of(tmp_path / f"{i}.zip", files),
            tar_of(tmp_path / f"{i}.tar", *(member(*file) for file in files.items())),
        )
        for path, make in zip(paths, (ZipArchive, TarArchive), strict=True):
            if i == 0:
                assert make(path).entries().names == [deep]
            else:
                line = error_line(lambda make=make, path=path: make(path), "257 parts, expected at most 256")
                assert line.startswith(f"{path}: holds 'b/a/a/")
                assert len(line) < len(path) + 200


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_holds_a_file_twice_is_refused(tmp_path):
    zip_path = zip_of(tmp_path / "x.zip", {"a/1.png": b"x", "a//1.png": b"y"})
    error_line(lambda: ZipArchive(zip_path), "holds 'a/1.png' twice", "pack the archive again")
    tar_path = tar_of(tmp_path / "x.tar", member("a/1.png", b"x"), member("./a/1.png", b"y"))
    error_line(lambda: TarArchive(tar_path), "holds 'a/1.png' twice")


def test_backslashes_in_a_zip_separate_folders(tmp_path):
    path = zip_of(tmp_path / "x.zip", {"train\\cat\\1.png": b"x", "train\\dog\\": b""})
    archive = ZipArchive(path)
    assert archive.entries().names == ["train/cat/1.png", "train/dog/"]
    assert dict(archive.contents(["train/cat/1.png"])) == {"train/cat/1.png": b"x"}
    error_line(lambda: ZipArchive(zip_of(tmp_path / "y.zip", {"..\\1.png": b""})), "'../1.png'")


def test_names_in_a_zip_that_do_not_say_utf8_are_read_as_what_they_are(tmp_path):
    path = Path(zip_of(tmp_path / "x.zip", {"caXX/1.png": b"x", "caYY/1.png": b"y"}))
    content = path.read_bytes().replace(b"XX", "\u00e9".encode()).replace(b"YY", b"\x82\x82")
    path.write_bytes(content)
    names = ZipArchive(str(path)).entries().names
    assert names == ["ca\u00e9/1.png", "ca\u00e9\u00e9/1.png"]


def test_an_encrypted_zip_is_refused(tmp_path):
    path = Path(zip_of(tmp_path / "x.zip", {"a/1.png": b"x"}, zipfile.ZIP_STORED))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    error_line(lambda: ZipArchive(str(path)), "'a/1.png' is encrypted", "without a password")


def test_a_zip_whose_sizes_are_lies_unpacks_no_more_than_it_says(tmp_path):
    path = Path(zip_of(tmp_path / "x.zip", {"a/1.png": bytes(10**7)}))
    true_size, lie = struct.pack("<I", 10**7), struct.pack("<I", 1000)
    path.write_bytes(path.read_bytes().replace(true_size, lie))
    archive = ZipArchive(str(path))
    tracemalloc.start()
    ((_, content),) = archive.contents(["a/1.png"])
    assert "a/1.png: is damaged in its archive (Bad CRC-32" in str(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


def test_a_file_damaged_in_its_zip_is_reported_and_the_others_are_read(tmp_path):
    path = Path(zip_of(tmp_path / "x.zip", {"a/1.png": b"content", "a/2.png": b"two"}, zipfile.ZIP_STORED))
    path.write_bytes(path.read_bytes().replace(b"content", b"CONTENT"))
    archive = ZipArchive(str(path))
    contents = dict(archive.contents(["a/1.png", "a/2.png"]))
    assert isinstance(contents["a/1.png"], UserError)
    assert str(contents["a/1.png"]).startswith(f"{path}/a/1.png: is damaged in its archive (Bad CRC-32")
    assert contents["a/2.png"] == archive.content("a/2.png") == b"two"


def test_the_checksum_of_a_compressed_tar_is_read(tmp_path):
    plain = Path(tar_of(tmp_path / "x.tar", *(member(*file) for file in FILES.items())))
    path = tmp_path / "x.tar.gz"
    packed = gzip.compress(plain.read_bytes())
    path.write_bytes(packed)
    assert dict(TarArchive(str(path)).contents(FILES)) == FILES
    for damaged in (packed[:-8], packed[:-8] + bytes(8)):
        path.write_bytes(damaged)
        error_line(lambda: TarArchive(str(path)), "x.tar.gz: is no tar archive, or it is damaged or cut off")


def test_links_and_devices_in_archives_are_counted(tmp_path):
    tar = tar_of(
        tmp_path / "x.tar",
        member("a/1.png", b"x"),
        member("a/2.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("a/3.png", type=tarfile.LNKTYPE, linkname="a/1.png"),
        member("a/4.png", type=tarfile.FIFOTYPE),
        member("a/5.png", type=tarfile.CHRTYPE),
    )
    assert TarArchive(tar).entries() == (["a/1.png"], {"links in the archive": 2, "pipes or devices": 2})

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("a/1.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert ZipArchive(str(tmp_path / "x.zip")).entries() == ([], {"links in the archive": 1})


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x1f\x8b\x08", bytes(100)])
def test_a_file_that_is_no_archive_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    make = ZipArchive if name == "x.zip" else TarArchive
    error_line(lambda: make(str(path)), f"{path}: is no", "or it is damaged or cut off", "download or pack")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2"])
def test_an_archive_that_is_cut_off_anywhere_is_refused(tmp_path, name):
    files = {f"a/{number}.png": os.urandom(700) for number in range(4)}
    if name == "x.zip":
        path, make = zip_of(tmp_path / name, files), ZipArchive
    else:
        compression = name.rpartition(".")[2].replace("tar", "")
        path = tar_of(tmp_path / name, *(member(*file) for file in files.items()), mode=f"w:{compression}")
        make = TarArchive
    content = Path(path).read_bytes()
    # Behind the files, tar has a block of zeros that ends it and others that only fill it up.
    needed = 4 * (512 + 1024) + 511 if name == "x.tar" else 2500
    for length in range(0, needed + 1, 128):
        Path(path).write_bytes(content[:length])
        error_line(lambda: make(path), "damaged or cut off")
    Path(path).write_bytes(content)
    assert sorted(make(path).entries().names) == sorted(files)


def test_a_damaged_header_in_a_tar_is_not_the_end(tmp_path):
    path = Path(tar_of(tmp_path / "x.tar", member("a/1.png"), member("a/2.png"), member("a/3.png")))
    content = bytearray(path.read_bytes())
    content[512] ^= 1
    path.write_bytes(content)
    error_line(lambda: TarArchive(str(path)), "is no tar archive, or it is damaged")


@pytest.mark.parametrize(
    "header",
    [
        member("a/1.png", size=-512),
        member("a/1.png", b"n" * 2**21, type=tarfile.GNUTYPE_LONGNAME),
        member("a/1.png", b"2097152 n=" + b"n" * (2**21 - 11) + b"\n", type=tarfile.XHDTYPE),
    ],
)
def test_a_tar_header_of_a_hostile_size_is_refused(tmp_path, header):
    path = tmp_path / "x.tar"
    file = member("a/2.png")[0].tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header[0].tobuf(tarfile.GNU_FORMAT) + header[1] + file + bytes(10_240))
    error_line(lambda: TarArchive(str(path)), "is no tar archive, or it is damaged")


def test_a_tar_of_negative_size_in_an_extended_header_ends(tmp_path):
    path = tmp_path / "x.tar"
    first, second = tarfile.TarInfo("a/1.png"), tarfile.TarInfo("a/2.png")
    second.pax_headers = {"size": "-1536"}
    blocks = [header.tobuf(tarfile.PAX_FORMAT) for header in (first, second)]
    path.write_bytes(b"".join(blocks) + bytes(10_240))
    error_line(lambda: TarArchive(str(path)), "is no tar archive, or it is damaged")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_files_with_holes_in_a_tar_are_refused(tmp_path, mode):
    old = member("cat/1.png", type=tarfile.GNUTYPE_SPARSE)
    new = member("cat/1.png", b"0\n" * 600, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    for i, holes in enumerate((old, new)):
        with tarfile.open(tmp_path / f"{i}.tar", mode, format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(holes[0], io.BytesIO(holes[1]))
        error_line(lambda i=i: TarArchive(str(tmp_path / f"{i}.tar")).entries(), "or it is damaged")


def test_many_nested_extended_headers_are_refused(tmp_path):
    path = tmp_path / "x.tar"
    block = member("n", type=tarfile.GNUTYPE_LONGNAME)[0].tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(block * 3000 + bytes(10_240))
    error_line(lambda: TarArchive(str(path)), "is no tar archive, or it is damaged")


def test_an_empty_archive_holds_nothing(tmp_path):
    assert ZipArchive(zip_of(tmp_path / "x.zip", {})).entries() == ([], {})
    assert TarArchive(tar_of(tmp_path / "x.tar")).entries() == ([], {})


def test_names_are_printable_where_they_are_shown():
    name = os.fsdecode(b"caf\xe9\x1b[31m\n") + "\u2028\u65e5 \u00e9"
    shown = printable(name)
    assert shown == "caf\\xe9\\x1b[31m\\x0a\\u2028\u65e5 \u00e9"
    assert shown.encode()
