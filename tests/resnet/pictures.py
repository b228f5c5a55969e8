"""A picture, written and read, for the tests of image files."""

import io

import numpy as np
from PIL import Image, ImageCms

from resnet.images import read_image

ORIENTATION = 0x0112  # the EXIF tag


def photograph(height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth image in which no two orientations, rows or columns are alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 7, y * 9, 255 - (x + 2 * y) * 3], axis=-1).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, file_format: str, **options) -> bytes:
    """`image` as a file of `file_format`, by Pillow with `options`."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes, **options) -> np.ndarray:
    """What `read_image` makes of the bytes of a file."""
    return read_image(io.BytesIO(data), **options)


def as_camera_stores(upright: np.ndarray, orientation: int) -> tuple[np.ndarray, Image.Exif]:
    """The pixels of a camera that was held so that EXIF tells of `orientation`, 1 to 8, and that EXIF."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return np.ascontiguousarray(stored), exif


def red_blue_swapped_profile() -> bytes:
    """An ICC profile by which red is blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp_").replace(b"bXYZ", b"rXYZ").replace(b"tmp_", b"bXYZ")
