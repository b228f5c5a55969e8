"""Seeded stratified splits of a labelled set: a validation share, and k-fold cross-validation."""

import numpy as np

from errors import UserError


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws `fraction` of each class for validation.

    Each class gives its share, rounded half up, and keeps at least one image for training.

    Args:
      labels: integers `[N]`.
      fraction: validation share, in [0, 1).
      seed: the same seed draws the same images.

    Returns: sorted, disjoint indices (training, validation) into `labels`, together all of them.

    Raises: UserError for a fraction outside [0, 1) or so small that no class gives an image, and
    for a negative seed.
    """
    if not 0 <= fraction < 1:
        raise UserError(
            f"data.val_fraction: found {fraction}; expected a share of the training images from 0 "
            "to below 1; set it to 0 for no validation split"
        )
    rng = _generator(seed)
    held_out = np.zeros(len(labels), bool)
    for members in _shuffled_classes(labels, rng):
        share = int(np.floor(fraction * len(members) + 0.5))
        held_out[members[: min(share, len(members) - 1)]] = True
    if fraction > 0 and not held_out.any():
        raise UserError(
            f"data.val_fraction: found {fraction}, which is less than one image of any class among "
            f"{len(labels)} training images; expected a larger share, or 0 for no validation split"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_fold(labels: np.ndarray, fold: int, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Holds out fold number `fold` of `folds`.

    For one seed every image is in exactly one fold; the folds' counts of a class, and their sizes,
    differ by one image at most.

    Args:
      labels: integers `[N]`.
      fold: which fold to hold out, 0 to `folds - 1`.
      folds: number of folds, from 2 to the size of the smallest class.
      seed: the same seed makes the same folds.

    Returns: sorted, disjoint indices (training, validation) into `labels`, together all of them.

    Raises: UserError for `fold` or `folds` outside those ranges, and for a negative seed.
    """
    if folds < 2:
        raise UserError(f"data.folds: found {folds}; expected 2 or more; set it to 0 for no cross-validation")
    if not 0 <= fold < folds:
        raise UserError(
            f"data.fold: found {fold}; expected 0 to {folds - 1}, as data.folds is {folds}; "
            "choose one of these"
        )
    rng = _generator(seed)
    classes = _shuffled_classes(labels, rng)
    smallest = min(len(members) for members in classes)
    if folds > smallest:
        raise UserError(
            f"data.folds: found {folds}; expected at most {smallest}, the number of training "
            "images in the smallest class; choose fewer folds"
        )
    # Dealing the classes out one after the other without starting anew evens the folds' sizes too.
    held_out = np.zeros(len(labels), bool)
    held_out[np.concatenate(classes)[fold::folds]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"data.split_seed: found {seed}; expected 0 or more; choose another seed")
    return np.random.default_rng(seed)


def _shuffled_classes(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The indices of each class that occurs, in random order within the class."""
    return [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
