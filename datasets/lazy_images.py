"""Images that are loaded when they are asked for, where an array of them would not fit into memory."""

from collections.abc import Callable
from typing import Any

import numpy as np


class LazyImages:
    """Stands for an array of images, uint8 `[N, S, S, 3]`, and loads those that are indexed.

    A number gives one image, `[S, S, 3]`; a slice or an array gives an array of images. Threads may share it.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, load: Callable[[int], np.ndarray], places: np.ndarray, size: int, *, decodes: bool = False
    ) -> None:
        """`load` returns the image at a place, uint8 `[S, S, 3]`. `places`, int `[N]`, lists all places.

        `decodes` says that loading is work for a processor. Then it can be pickled for another process.
        """
        self._load = load
        self._places = places
        self.decodes = decodes
        self.shape = (len(places), size, size, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        places = self._places[index]
        if np.ndim(places) == 0:
            return self._load(int(places))
        images = np.empty((len(places), *self.shape[1:]), np.uint8)
        for row, place in enumerate(places):
            images[row] = self._load(int(place))
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Loads all images into memory."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def select(self, rows: np.ndarray | slice) -> "LazyImages":
        """Returns some of the images, without loading them."""
        return LazyImages(self._load, self._places[rows], self.shape[1], decodes=self.decodes)

    def map(self, function: Callable[[np.ndarray], np.ndarray], size: int) -> "LazyImages":
        """Returns the images changed by `function`, which makes them `[size, size, 3]` as they are loaded."""
        load = self._load
        return LazyImages(lambda place: function(load(place)), self._places, size, decodes=self.decodes)


Images = np.ndarray | LazyImages


def select(images: Images, rows: np.ndarray | slice) -> Images:
    """Returns the images at `rows`. Lazy images are not loaded."""
    return images.select(rows) if isinstance(images, LazyImages) else images[rows]


def concatenate(first: Images, second: np.ndarray) -> Images:
    """Returns the images of both, one after the other; lazy if the first ones are."""
    if not isinstance(first, LazyImages):
        return np.concatenate([first, second])
    count, size = len(first), first.shape[1]

    def load(place: int) -> np.ndarray:
        return first[place] if place < count else second[place - count]

    return LazyImages(load, np.arange(count + len(second)), size, decodes=first.decodes)
