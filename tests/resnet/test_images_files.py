"""Finding image files, and the errors for files that are no images."""

import io
import os
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from resnet import images
from resnet.errors import UserError
from resnet.images import MAX_PIXELS, find_images, read_image
from tests.resnet.pictures import decode, encode, photograph


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG file with a size in its header and hardly any pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


@pytest.fixture
def album(tmp_path) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "data.h5",
        "paper.pdf",
        "drawing.eps",
        "clip.mpeg",
        ".hidden.png",
        "sub/c.mpo",
        "sub/.cache/d.png",
        "sub/@eaDir/b.jpg",
        "__MACOSX/b.jpg",
        "$Recycle.Bin/b.jpg",
        "sub/deep/e.tiff",
        "text/readme.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(files: list[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_folder_is_walked_sorted_without_hidden_and_other_files(album):
    files = find_images([str(album)])
    assert names(files, album) == ["a.PNG", "b.jpg", "sub/c.mpo", "sub/deep/e.tiff"]


def test_files_are_listed_as_given_in_order_and_once(album):
    paths = [
        album / "notes.txt",
        album / "sub",
        album / ".hidden.png",
        album / "sub" / ".." / "b.jpg",
        album,
        album / "b.jpg",
    ]
    expected = ["notes.txt", "sub/c.mpo", "sub/deep/e.tiff", ".hidden.png", "sub/../b.jpg"]
    assert names(find_images(paths), album) == [*expected, "a.PNG"]


def test_hidden_folder_that_is_named_is_walked(album):
    assert names(find_images([album / "sub" / ".cache"]), album) == ["sub/.cache/d.png"]


def test_relative_paths_stay_relative(album, monkeypatch):
    monkeypatch.chdir(album)
    assert find_images(["b.jpg", "./b.jpg", album / "b.jpg"]) == [Path("b.jpg")]


def test_missing_path_and_folder_without_images(album):
    with pytest.raises(UserError, match=r"nothing\.jpg: no such file or folder"):
        find_images([album / "b.jpg", album / "nothing.jpg"])
    with pytest.raises(UserError, match="text: the folder has no image files"):
        find_images([album / "text"])


# Sources and errors


def test_path_string_and_stream_read_the_same(tmp_path):
    path = tmp_path / "hand.png"
    path.write_bytes(encode(photograph(), "PNG"))
    with path.open("rb") as stream:
        for source in (path, str(path), stream):
            np.testing.assert_array_equal(read_image(source), photograph())


def test_format_is_taken_from_the_content_not_the_name(tmp_path):
    path = tmp_path / "hand.jpg"
    path.write_bytes(encode(photograph(), "PNG"))
    np.testing.assert_array_equal(read_image(path), photograph())


def test_result_is_writable():
    decode(encode(photograph(), "PNG"))[0, 0, 0] = 1


def error_line(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path, **options)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty (0 bytes)"),
        (b"These are not pixels.\n" * 20, "not an image of a known format"),
        (encode(photograph(), "JPEG")[:-150], "truncated"),
        (encode(photograph(), "PNG")[:-40], "truncated"),
        (encode(photograph(), "PNG")[:20], "truncated"),
        (png_header(20_000, 20_000), f"more than {MAX_PIXELS:,} pixels"),
        (png_header(10_001, 10_000), f"more than {MAX_PIXELS:,} pixels"),
        (png_header(0, 5), "its header is damaged"),
    ],
    ids=["empty", "text", "jpeg cut", "png cut", "header cut", "huge", "large", "no pixels"],
)
@pytest.mark.filterwarnings("error")
def test_bad_file_is_one_line_with_its_path(tmp_path, content, expected):
    path = tmp_path / "bad file.png"
    path.write_bytes(content)
    assert expected in error_line(path)


def test_missing_file_folder_and_pipe_have_different_errors(tmp_path):
    assert "no such file" in error_line(tmp_path / "missing.png")
    assert "is a folder" in error_line(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a pipe" in error_line(tmp_path / "pipe.png")


def test_file_without_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(photograph(), "PNG"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(UserError, match=r"secret\.png: cannot be read \(Permission denied\)"):
        read_image(path)


def test_file_that_the_disk_does_not_give_back(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"/proc/self/mem: cannot be read \(Input/output error\)"):
        read_image("/proc/self/mem")
    path = tmp_path / "hand.png"
    path.write_bytes(encode(photograph(), "PNG"))

    def fail(self):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert "cannot be read (Input/output error)" in error_line(path)


def test_libraries_in_c_add_nothing_to_the_error_of_a_file(tmp_path, capfd):
    content = bytearray(encode(photograph(), "TIFF", compression="tiff_lzw"))
    content[8:40] = bytes(range(200, 232))
    (tmp_path / "hand.tiff").write_bytes(content)
    assert "damaged" in error_line(tmp_path / "hand.tiff")
    assert capfd.readouterr().err == ""
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_larger_files_and_longer_sides_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    for width, height in ((1, 99_000_000), (99_000_000, 1)):
        (tmp_path / "long.png").write_bytes(png_header(width, height))
        assert f"is {width:,}x{height:,} pixels, expected at most 300,000" in error_line(
            tmp_path / "long.png"
        )
    (tmp_path / "hand.png").write_bytes(encode(photograph(), "PNG"))
    monkeypatch.setattr(images, "MAX_FILE_SIZE", 100)
    assert "is larger than 0 MB, the limit" in error_line(tmp_path / "hand.png")
    with pytest.raises(UserError, match="is larger than"):
        read_image(io.BytesIO(bytes(101)))


def test_long_side_inside_of_an_icon(monkeypatch):
    monkeypatch.setattr(images, "MAX_SIDE", 39)
    picture = encode(photograph(40, 40), "PNG")
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture
    with pytest.raises(UserError, match="image data: is 40x40 pixels, expected at most 39 along a side"):
        decode(icon)


RAW_PICTURES = {
    "DNG": {50706: b"\1\4\0\0"},
    "thumbnail of NEF": {254: 1, 330: 8},
}


@pytest.mark.parametrize("kind", RAW_PICTURES)
def test_raw_picture_is_not_answered_from_its_thumbnail(tmp_path, monkeypatch, kind):
    path = tmp_path / "photo.tif"  # The content counts, whatever the name.
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in RAW_PICTURES[kind].items():
        directory[tag] = value
    path.write_bytes(encode(photograph(), "TIFF", tiffinfo=directory))
    assert "raw picture of a camera" in error_line(path)


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"\xff\x0aabc", "JPEG XL"),
        (b"\n<svg xmlns=''/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"IIRO\x08", "raw"),
        (b"II*\0\x08", "raw"),
    ],
)
def test_pictures_of_a_kind_that_is_not_read_are_named(tmp_path, beginning, kind):
    (tmp_path / "photo").write_bytes(beginning)
    assert kind in error_line(tmp_path / "photo")


def test_pictures_of_other_kinds_in_a_folder_are_counted_once(album):
    for name in ("1.dng", "2.NEF", "sub/3.CR2", "4.jxl", ".hidden.dng"):
        (album / name).touch()
    reports: list[UserError] = []
    assert len(find_images([album], reports.append)) == 4
    counts = "1 JPEG XL and 3 raw pictures of cameras and 1 vector graphics"
    assert list(map(str, reports)) == [f"{album}: {counts} cannot be read; convert them to JPEG or PNG"]
    (album / "text" / "only.jxl").touch()
    with pytest.raises(UserError, match="text: the folder has only 1 JPEG XL, which cannot be read"):
        find_images([album / "text"])


def test_an_empty_path_is_no_folder():
    with pytest.raises(UserError, match="'': is an empty path"):
        find_images([""])


def test_a_path_with_a_null_byte_is_one_line():
    with pytest.raises(UserError, match=r"a\\x00b: no such file"):
        find_images(["a\0b"])
    with pytest.raises(UserError, match=r"a\\x00b: cannot be read"):
        read_image("a\0b")


def test_file_name_that_is_not_unicode_can_be_printed():
    with pytest.raises(UserError, match="no such file") as caught:
        read_image(os.fsdecode(b"h\xffnd.png"))
    str(caught.value).encode()


def test_pixel_limit_is_exact_and_holds_inside_containers():
    data = encode(photograph(10, 10), "PNG")
    np.testing.assert_array_equal(decode(data, max_pixels=100), photograph(10, 10))
    with pytest.raises(UserError, match="more than 99 pixels"):
        decode(data, max_pixels=99)
    # The directory of this icon says 16 x 16, but its picture is 40 x 40.
    picture = encode(photograph(40, 40), "PNG")
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture
    assert decode(icon).shape == (40, 40, 3)
    with pytest.raises(UserError, match="more than 400 pixels"):
        decode(icon, max_pixels=400)


def test_settings_of_pillow_are_overridden_and_restored(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(encode(photograph(), "PNG")).shape == (24, 32, 3)
    with pytest.raises(UserError, match="truncated"):
        decode(encode(photograph(), "JPEG")[:-150])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert Image.MAX_IMAGE_PIXELS == 10


def test_threads_decode_side_by_side_and_strictly(monkeypatch):
    together = threading.Barrier(2)
    open_image = Image.open

    def open_together(*args, **kwargs):
        together.wait(timeout=10)
        return open_image(*args, **kwargs)

    monkeypatch.setattr(Image, "open", open_together)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole, cut = encode(photograph(), "PNG"), encode(photograph(), "JPEG")[:-150]
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(decode, whole), threads.submit(decode, cut)
        np.testing.assert_array_equal(first.result(), photograph())
        with pytest.raises(UserError, match="truncated"):
            second.result()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_thread_with_another_limit_waits_for_its_turn():
    data = encode(photograph(10, 10), "PNG")

    def fits(max_pixels):
        try:
            return decode(data, max_pixels=max_pixels).shape == (10, 10, 3)
        except UserError:
            return False

    limits = [100, 99] * 200
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(fits, limits)) == [limit == 100 for limit in limits]


@pytest.mark.filterwarnings("error")
def test_warnings_of_pillow_stay_inside():
    data = encode(photograph(), "PNG")
    no_frames = data[:33] + png_chunk(b"acTL", bytes(8)) + data[33:]
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(no_frames))
    np.testing.assert_array_equal(decode(no_frames), photograph())


def test_postscript_never_starts_a_program(monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: calls.append(args))
    data = encode(photograph(), "EPS")
    with pytest.raises(UserError, match="is PostScript"):
        decode(data)
    assert calls == []


@pytest.mark.parametrize(
    "failure",
    [struct.error, SyntaxError, ValueError, OverflowError, IndexError, EOFError],
)
def test_whatever_a_plugin_raises_is_one_line(monkeypatch, tmp_path, failure):
    def fail(self):
        raise failure("first\nsecond")

    path = tmp_path / "odd.png"
    path.write_bytes(encode(photograph(), "PNG"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert "truncated or damaged" in error_line(path)


FILES = {
    "png": encode(photograph(), "PNG"),
    "png, palette": encode(Image.fromarray(photograph()).quantize(16), "PNG", transparency=3),
    "jpeg": encode(photograph(), "JPEG"),
    "jpeg, progressive": encode(photograph(), "JPEG", progressive=True),
    "gif": encode(photograph(), "GIF"),
    "tiff": encode(photograph(), "TIFF"),
    "tiff, deflated": encode(photograph(), "TIFF", compression="tiff_adobe_deflate"),
    "webp": encode(photograph(), "WEBP"),
    "bmp": encode(photograph(), "BMP"),
}
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)
kinds = st.sampled_from(sorted(FILES))


def decode_or_complain(data: bytes) -> np.ndarray | str:
    try:
        return decode(data, max_pixels=100_000)
    except UserError as error:
        return str(error)


def assert_image_or_one_line(result: np.ndarray | str):
    if isinstance(result, str):
        assert result.startswith("image data: ")
        assert "\n" not in result
    else:
        assert result.dtype == np.uint8
        assert result.ndim == 3
        assert result.shape[2] == 3
        assert result.size > 0


@FUZZ
@given(kind=kinds, keep=st.floats(0, 1, exclude_max=True))
def test_cut_file_gives_the_whole_image_or_an_error(kind, keep):
    data = FILES[kind]
    result = decode_or_complain(data[: int(keep * len(data))])
    assert_image_or_one_line(result)
    if not isinstance(result, str):  # Only the end marker was cut off.
        np.testing.assert_array_equal(result, decode(data))


@FUZZ
@given(
    kind=kinds,
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=8),
    in_header=st.booleans(),
)
def test_damaged_file_gives_an_array_or_an_error(kind, flips, in_header):
    data = bytearray(FILES[kind])
    reach = min(len(data), 64) if in_header else len(data)
    for position, bit in flips:
        data[int(position * reach)] ^= 1 << bit
    assert_image_or_one_line(decode_or_complain(bytes(data)))


@FUZZ
@given(data=st.binary(max_size=200))
def test_random_bytes_give_an_array_or_an_error(data):
    assert_image_or_one_line(decode_or_complain(data))
