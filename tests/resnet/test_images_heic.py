"""HEIC photographs of iPhones. The container turns them, and EXIF has the orientation once more."""

import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet.errors import UserError
from resnet.images import find_images, read_image
from tests.resnet.pictures import as_camera_stores, decode, photograph, red_blue_swapped_profile
from tests.resnet.test_images_files import FUZZ, assert_image_or_one_line, decode_or_complain


def heic(image: np.ndarray, **options) -> bytes:
    """Encodes `image`, uint8 [H, W, 3], without registering the format in Pillow."""
    height, width, _ = image.shape
    buffer = io.BytesIO()
    pillow_heif.encode("RGB", (width, height), image.tobytes(), buffer, quality=95, chroma=444, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_is_upright_whichever_way_the_phone_was_held(tmp_path: Path, orientation: int) -> None:
    upright = photograph()
    stored, exif = as_camera_stores(upright, orientation)
    (tmp_path / "IMG_0001.HEIC").write_bytes(heic(stored, exif=exif.tobytes()))
    (file,) = find_images([tmp_path])
    image = read_image(file)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 2


def test_colours_of_the_camera_become_srgb() -> None:
    red = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    image = decode(heic(red, icc_profile=red_blue_swapped_profile()))
    np.testing.assert_allclose(image.astype(int), np.broadcast_to((0, 0, 255), image.shape), atol=6)


def test_pixel_limit_is_known_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(photograph())
    assert decode(data, max_pixels=24 * 32).shape == (24, 32, 3)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UserError, match="more than 767 pixels"):
        decode(data, max_pixels=24 * 32 - 1)


FILE = heic(photograph())


@FUZZ
@given(
    keep=st.floats(0.05, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=8),
)
def test_damaged_file_gives_an_array_or_one_line(keep: float, flips: list[tuple[float, int]]) -> None:
    data = bytearray(FILE[: int(keep * len(FILE))])
    for position, bit in flips:
        data[int(position * len(data))] ^= 1 << bit
    assert_image_or_one_line(decode_or_complain(bytes(data)))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_file_that_was_cut_short_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"header is damaged|truncated"):
        decode(FILE[: int(share * len(FILE))])
