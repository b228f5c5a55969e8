"""Pictures, encoded and decoded, for the tests of image files."""

import io

import numpy as np
from PIL import Image, ImageCms

from resnet.images import read_image

ORIENTATION = 0x0112  # The EXIF tag.


def photograph(height: int = 24, width: int = 32) -> np.ndarray:
    """Returns a smooth image, uint8 [H, W, 3], that differs in all orientations, rows and columns."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 7, y * 9, 255 - (x + 2 * y) * 3], axis=-1).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, file_format: str, **options) -> bytes:
    """Encodes `image` in `file_format` by Pillow with `options`."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes, **options) -> np.ndarray:
    """Decodes the bytes of a file by `read_image`."""
    return read_image(io.BytesIO(data), **options)


def as_camera_stores(upright: np.ndarray, orientation: int) -> tuple[np.ndarray, Image.Exif]:
    """Returns the pixels and the EXIF that a camera stores when it is held in `orientation`, 1 to 8."""
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
    """Returns an ICC profile that exchanges red and blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp_").replace(b"bXYZ", b"rXYZ").replace(b"tmp_", b"bXYZ")
