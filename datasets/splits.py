"""Splits that hold out images of every class: a share for validation, or one of k folds."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from resnet.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def draw_validation(
    labels: np.ndarray, config: "ConfigDict", groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the validation images as the `data` part of a config says, among the training images.

    `config.val_fraction` is the share of each class to hold out. `config.folds` cuts the images into that
    many folds instead and holds out number `config.fold`. Both draw by `config.split_seed`. With both 0 there
    is no validation image.

    Args:
      labels: integers `[N]`.
      config: the `data` part of an experiment's config.
      groups: integers `[N]`, the same for images that are to stay on one side.

    Returns: indices into `labels` for training and for validation, sorted. Every index is in one of them.

    Raises: UserError if one is out of its range.
    """
    if config.folds:
        return stratified_fold(labels, config.fold, config.folds, config.split_seed, groups)
    return stratified_split(labels, config.val_fraction, config.split_seed, groups)


def stratified_split(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    groups: np.ndarray | None = None,
    *,
    field: str = "val_fraction",
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `fraction` of each class for validation, or for testing.

    Each class gives its share, rounded half up, and keeps at least one image for training. With `groups` the
    images of a group stay together, and a group that is larger than the share stays in training. So a class
    may give less than its share.

    Args:
      labels: integers `[N]`.
      fraction: share for validation, in [0, 1).
      seed: of the draw. The same seed draws the same images.
      groups: integers `[N]`, the same for images that belong together, such as near duplicates.
      field: of the config that holds `fraction`, for error messages.

    Returns: indices into `labels` for training and for validation, sorted. Every index is in one of them.

    Raises: UserError for a fraction outside [0, 1) or so small that no class gives an image, and
    for a negative seed.
    """
    _check_fraction(fraction, field)
    rng = _generator(seed)
    held_out = np.zeros(len(labels), bool)
    if groups is None:
        for members in _shuffled_classes(labels, rng):
            held_out[members[: _share(fraction, len(members))]] = True
    else:
        held_out = _hold_out_groups(labels, fraction, rng, groups)
    if fraction > 0 and not held_out.any():
        counted = "" if groups is None else ", near duplicates counted as one"
        raise UserError(
            f"config.data.{field}={fraction}: is less than one image of any class among {len(labels)}"
            f" images{counted}; expected a larger share, or 0 to hold out none"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_fold(
    labels: np.ndarray, fold: int, folds: int, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out fold number `fold` of `folds`.

    For one seed every image is in exactly one fold. The sizes of two folds differ by at most one image, and
    so do their counts of any class. With `groups` the images of a group are in the same fold, and the counts
    are as even as groups allow.

    Args:
      labels: integers `[N]`.
      fold: number of the fold to hold out, 0 to `folds - 1`.
      folds: number of folds, from 2 to the size of the smallest class, in groups if there are groups.
      seed: of the draw. The same seed makes the same folds.
      groups: integers `[N]`, the same for images that belong together, such as near duplicates.

    Returns: indices into `labels` for training and for validation, sorted. Every index is in one of them.

    Raises: UserError for `fold` or `folds` outside those ranges, and for a negative seed.
    """
    _check_folds(fold, folds, labels, groups)
    rng = _generator(seed)
    if groups is None:
        # The images are dealt out like cards, and each class begins where the one before ended. So the sizes
        # of the folds are even too.
        held_out = np.zeros(len(labels), bool)
        held_out[np.concatenate(_shuffled_classes(labels, rng))[fold::folds]] = True
    else:
        held_out = _deal_groups(labels, folds, rng, groups) == fold
        if len(np.unique(labels[~held_out])) < len(np.unique(labels)):
            raise UserError(
                f"config.data.split_seed={seed}: fold {fold} holds out all images of a class, as near"
                " duplicates stay together; choose another seed or fewer folds"
            )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _check_fraction(fraction: float, field: str) -> None:
    if not 0 <= fraction < 1:
        raise UserError(
            f"config.data.{field}={fraction}: expected a share of the images, 0 to below 1; set it to 0 to"
            " hold out none"
        )


def _check_folds(fold: int, folds: int, labels: np.ndarray, groups: np.ndarray | None) -> None:
    if folds < 2:
        raise UserError(f"config.data.folds={folds}: expected 2 or more; set it to 0 for no cross-validation")
    if not 0 <= fold < folds:
        raise UserError(
            f"config.data.fold={fold}: expected 0 to {folds - 1}, as config.data.folds={folds}; choose one of"
            " these"
        )
    units = np.arange(len(labels)) if groups is None else groups
    smallest = min(len(np.unique(units[labels == label])) for label in np.unique(labels))
    if folds > smallest:
        counted = "" if groups is None else ", near duplicates counted as one"
        raise UserError(
            f"config.data.folds={folds}: expected at most {smallest}, the number of training images in the"
            f" smallest class{counted}; choose fewer folds"
        )


def _share(fraction: float, count: int) -> int:
    """Returns how many of `count` images of a class are held out."""
    return min(int(np.floor(fraction * count + 0.5)), count - 1)


def _hold_out_groups(
    labels: np.ndarray, fraction: float, rng: np.random.Generator, groups: np.ndarray
) -> np.ndarray:
    """Returns which images are held out, bool `[N]`: groups in random order while no class exceeds its share.

    A group may have images of several classes.
    """
    counts, group_of_image = _class_counts(labels, groups)
    left = {label: _share(fraction, count) for label, count in Counter(labels.tolist()).items()}
    is_held_out = np.zeros(len(counts), bool)
    for group in rng.permutation(len(counts)):
        if all(count <= left[label] for label, count in counts[group].items()):
            is_held_out[group] = True
            for label, count in counts[group].items():
                left[label] -= count
    return is_held_out[group_of_image]


def _deal_groups(labels: np.ndarray, folds: int, rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Returns the fold of every image, int `[N]`.

    Groups come in random order, the largest first. Each goes to the fold that has the fewest images of its
    classes, and of these to the smallest.
    """
    counts, group_of_image = _class_counts(labels, groups)
    order = rng.permutation(len(counts))
    order = order[np.argsort([-counts[group].total() for group in order], kind="stable")]
    totals = np.zeros((folds, labels.max() + 1), int)
    fold_of_group = np.zeros(len(counts), int)
    for group in order:
        its_classes = list(counts[group])
        fold = np.lexsort((totals.sum(1), totals[:, its_classes].sum(1)))[0]
        fold_of_group[group] = fold
        totals[fold, its_classes] += list(counts[group].values())
    return fold_of_group[group_of_image]


def _class_counts(labels: np.ndarray, groups: np.ndarray) -> tuple[list[Counter[int]], np.ndarray]:
    """Returns the number of images of each class in each group, and the index of each image's group."""
    group_of_image = np.unique(groups, return_inverse=True)[1]
    counts: list[Counter[int]] = [Counter() for _ in range(group_of_image.max() + 1)]
    for group, label in zip(group_of_image.tolist(), labels.tolist(), strict=True):
        counts[group][label] += 1
    return counts, group_of_image


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"config.data.split_seed={seed}: expected 0 or more; choose another seed")
    return np.random.default_rng(seed)


def _shuffled_classes(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the indices of each class that occurs, in random order within the class."""
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
