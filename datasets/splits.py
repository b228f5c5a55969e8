"""Splits that hold out images of every class: a share for validation, or one of k folds."""

import numpy as np

from resnet.errors import UserError


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws `fraction` of each class for validation.

    Each class gives its share, rounded half up, and keeps at least one image for training.

    Args:
      labels: integers `[N]`.
      fraction: share for validation, in [0, 1).
      seed: of the draw. The same seed draws the same images.

    Returns: indices into `labels` for training and for validation, sorted. Every index is in one of them.

    Raises: UserError for a fraction outside [0, 1) or so small that no class gives an image, and
    for a negative seed.
    """
    if not 0 <= fraction < 1:
        raise UserError(
            f"config.data.val_fraction={fraction}: expected a share of the training images, 0 to below 1; set"
            " it to 0 for no validation split"
        )
    rng = _generator(seed)
    held_out = np.zeros(len(labels), bool)
    for members in _shuffled_classes(labels, rng):
        share = int(np.floor(fraction * len(members) + 0.5))
        held_out[members[: min(share, len(members) - 1)]] = True
    if fraction > 0 and not held_out.any():
        raise UserError(
            f"config.data.val_fraction={fraction}: is less than one image of any class among {len(labels)}"
            " training images; expected a larger share, or 0 for no validation split"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_fold(labels: np.ndarray, fold: int, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Holds out fold number `fold` of `folds`.

    For one seed every image is in exactly one fold. The sizes of two folds differ by at most one image, and
    so do their counts of any class.

    Args:
      labels: integers `[N]`.
      fold: number of the fold to hold out, 0 to `folds - 1`.
      folds: number of folds, from 2 to the size of the smallest class.
      seed: of the draw. The same seed makes the same folds.

    Returns: indices into `labels` for training and for validation, sorted. Every index is in one of them.

    Raises: UserError for `fold` or `folds` outside those ranges, and for a negative seed.
    """
    if folds < 2:
        raise UserError(f"config.data.folds={folds}: expected 2 or more; set it to 0 for no cross-validation")
    if not 0 <= fold < folds:
        raise UserError(
            f"config.data.fold={fold}: expected 0 to {folds - 1}, as config.data.folds={folds}; choose one of"
            " these"
        )
    rng = _generator(seed)
    classes = _shuffled_classes(labels, rng)
    smallest = min(len(members) for members in classes)
    if folds > smallest:
        raise UserError(
            f"config.data.folds={folds}: expected at most {smallest}, the number of training images in the"
            " smallest class; choose fewer folds"
        )
    # The images are dealt out like cards, and each class begins where the one before ended. So the sizes of
    # the folds are even too.
    held_out = np.zeros(len(labels), bool)
    held_out[np.concatenate(classes)[fold::folds]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"config.data.split_seed={seed}: expected 0 or more; choose another seed")
    return np.random.default_rng(seed)


def _shuffled_classes(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the indices of each class that occurs, in random order within the class."""
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
