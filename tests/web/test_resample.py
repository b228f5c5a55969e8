"""The page's resampling gives the pixels of `fit_square`, to the bit."""

import base64
from typing import Any

import numpy as np
import PIL
import pytest

from resnet.images import fit_square
from tests.web.conftest import OpenPage

SIZES = ((97, 61), (64, 64), (65, 64), (30, 20), (7, 190), (190, 7), (1, 1), (203, 301))
PREPARATIONS: list[dict[str, Any]] = [
    {"size": size, "fit": fit, "crop": crop, "resample": resample}
    for size, crop in ((64, 1.0), (33, 0.875))
    for fit in ("crop", "pad", "stretch")
    for resample in ("bicubic", "bilinear", "lanczos")
]
# In tall pictures, Pillow begins with the pass down from version 13 on.
GOES_DOWN_FIRST = int(PIL.__version__.partition(".")[0]) >= 13

FIT_SQUARES = """async ([content, width, height, preparations]) => {
  const { fitSquare, pictureInMemory } = await import("./resample.js");
  const pixels = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const picture = pictureInMemory(pixels, width, height);
  return preparations.map((preparation) => String.fromCharCode(...fitSquare(picture, preparation)));
}"""


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_squares_are_those_of_python(open_page: OpenPage, address: str, width: int, height: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    page = open_page(f"{address}network.json")  # which starts nothing
    squares = page.evaluate(FIT_SQUARES, [encoded(image), width, height, PREPARATIONS])
    for preparation, square in zip(PREPARATIONS, squares, strict=True):
        levels = np.frombuffer(square.encode("latin-1"), np.uint8).astype(int)
        difference = np.abs(levels - expected_square(image, **preparation).ravel())
        assert difference.max() <= allowed_difference(width, height, preparation["size"]), preparation


def encoded(image: np.ndarray) -> str:
    """Returns the pixels with a fourth channel of noise, which must not matter, in base64."""
    noise = np.random.default_rng(1).integers(0, 256, (*image.shape[:2], 1), np.uint8)
    return base64.b64encode(np.concatenate([image, noise], axis=2).tobytes()).decode()


def expected_square(image: np.ndarray, size: int, **preparation: Any) -> np.ndarray:
    return fit_square(image, size, **preparation)


def allowed_difference(width: int, height: int, size: int) -> int:
    is_tall = height > max(width, size)
    return 0 if GOES_DOWN_FIRST or not is_tall else 1
