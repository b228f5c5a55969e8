"""The types that every source of images returns."""

import hashlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Labelled images.

    Attributes:
      images: uint8 `[N, H, W, 3]`, values 0 to 255.
      labels: int32 `[N]`.
      mattes: uint8 `[N, H, W]`, 255 where a pixel is all hand and 0 where it is all background; or None.
    """

    images: np.ndarray
    labels: np.ndarray
    mattes: np.ndarray | None = None

    def subset(self, indices: np.ndarray) -> "Split":
        """Returns the images at `indices` `[M]`, in that order, with their labels and mattes."""
        mattes = None if self.mattes is None else self.mattes[indices]
        return Split(self.images[indices], self.labels[indices], mattes)

    def digest(self) -> str:
        """Returns a checksum of all images and labels, in hexadecimal."""
        content = hashlib.sha256(np.ascontiguousarray(self.images).data)
        content.update(np.ascontiguousarray(self.labels).data)
        return content.hexdigest()


class Dataset(NamedTuple):
    """A training and a test split of the same classes. Label `i` means `class_names[i]`."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
