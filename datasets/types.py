"""What every data source returns."""

import hashlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Labelled images: `images` uint8 `[N, H, W, 3]`, values 0-255; `labels` int32 `[N]`.

    `mattes` uint8 `[N, H, W]`, how much of each pixel is hand (255) and not background (0), or None.
    """

    images: np.ndarray
    labels: np.ndarray
    mattes: np.ndarray | None = None

    def digest(self) -> str:
        """A checksum of all images and labels, in hexadecimal."""
        content = hashlib.sha256(np.ascontiguousarray(self.images))
        content.update(np.ascontiguousarray(self.labels))
        return content.hexdigest()


class Dataset(NamedTuple):
    """A training and a test split over the same classes; label `i` means `class_names[i]`."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
