"""The types that every source of images returns."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from datasets.digests import pixel_digests
from datasets.lazy_images import Images, concatenate, select


class Split(NamedTuple):
    """Labelled images.

    Attributes:
      images: uint8 `[N, H, W, 3]`, values 0 to 255. Those that are streamed are `LazyImages`.
      labels: int32 `[N]`.
      mattes: uint8 `[N, H, W]`, 255 where a pixel is all hand and 0 where it is all background; or None.
      files: strings `[N]`, the path of each image's file; or None for images that have none.
      digests: strings `[N]`, the `datasets.digests.pixel_digest` of each image; or None if not known.
    """

    images: Images
    labels: np.ndarray
    mattes: np.ndarray | None = None
    files: np.ndarray | None = None
    digests: np.ndarray | None = None

    def subset(self, indices: np.ndarray) -> "Split":
        """Returns the images at `indices` `[M]`, in that order, with all that belongs to them."""
        return Split(*(None if array is None else select(array, indices) for array in self))

    def followed_by(self, other: "Split") -> "Split":
        """Returns the images of this split and then of `other`, with mattes if both have them."""
        have_mattes = self.mattes is not None and other.mattes is not None
        return Split(
            concatenate(self.images, np.asarray(other.images)),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.mattes, other.mattes]) if have_mattes else None,
        )

    def pixel_digests(self) -> Sequence[str]:
        """Returns the `datasets.digests.pixel_digest` of each image."""
        return pixel_digests(self.images) if self.digests is None else self.digests.tolist()

    def digest(self) -> str:
        """Returns a checksum of all images and labels, in hexadecimal.

        Where the digests of the images are known, it is made of those, and no image is read.
        """
        known = None if self.digests is None else "".join(self.digests).encode()
        content = sha256(np.ascontiguousarray(self.images).data if known is None else known)
        content.update(np.ascontiguousarray(self.labels).data)
        return content.hexdigest()


class Dataset(NamedTuple):
    """Splits of the same classes. Label `i` means `class_names[i]`.

    `test` is None where there are no test images. `val` holds validation images that the data set brings with
    it; without them, `datasets.train_val_split` can hold some out. `unreadable` says what is wrong with each
    file that was left out because it cannot be read.
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    val: Split | None = None
    unreadable: tuple[str, ...] = ()
