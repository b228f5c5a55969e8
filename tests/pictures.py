"""Pictures for tests: of random pixels, and in folders by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((72, 72), (144, 150), (90, 200), (200, 101), (75, 80), (300, 280), (72, 99))


def random_pictures(count: int = 11) -> list[np.ndarray]:
    """Returns pictures of several sizes, each of its own colours. Eleven are more than a batch."""
    rng = np.random.default_rng(0)
    return [
        np.array(
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(
                SIZES[i % len(SIZES)], Image.Resampling.BILINEAR
            )
        )
        for i in range(count)
    ]


def sort_into(folder: Path, pictures: Sequence[np.ndarray], names: Sequence[str]) -> Path:
    """Writes picture i as PNG into the subfolder `names[i]` of `folder`; returns `folder`."""
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name / f"{i:02d}.png")
    return folder
