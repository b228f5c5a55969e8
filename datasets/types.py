"""What every data source returns."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Labelled images: `images` uint8 `[N, H, W, 3]`, values 0-255; `labels` int32 `[N]`."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A training and a test split over the same classes; label `i` means `class_names[i]`."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
