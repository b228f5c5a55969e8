"""Finds what is wrong with a labelled data set, by its pixels: duplicates, leaks, conflicts, imbalance.

A split drawn at random from bursts of photographs has near-identical images on both sides. A nearest
neighbour on raw pixels then scores well, and its score is the baseline that a network must beat.
"""

from typing import Any, NamedTuple

import numpy as np

from datasets.duplicates import TWIN_DISTANCE, close_pairs, nearest
from datasets.types import Split
from resnet.files import printable

THRESHOLDS = (0.0, 6.0, TWIN_DISTANCE)  # grey levels: identical, very close, twins
PAIRS_DESCRIBED = 1000  # for any two splits; all pairs of very similar images may not fit into memory


class _Pairs(NamedTuple):
    """Pairs of images: their indices in two splits, distances, and whether their labels differ, `[P]`."""

    left: np.ndarray
    right: np.ndarray
    distances: np.ndarray
    conflicts: np.ndarray


def audit(splits: dict[str, Split], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Compares the images of all splits, within a split and across splits.

    Args:
      splits: by name, such as train, val and test. The first is the training split.
      class_names: of the labels.

    Returns a JSON-ready dictionary:
      `classes`: number of images of each class in each split.
      `pairs`: close pairs within each split and across any two, closest first. Of more than `PAIRS_DESCRIBED`
        for any two splits, conflicts are kept first, then the closest. A pair has `splits`, `indices`,
        `labels` (class names), `distance` and `conflict` (whether the labels differ), and `files` where
        images have files.
      `near_duplicates`: for any two splits and each threshold, the number of `pairs`, of `conflicts` among
        them, and of `images` of the second split that have a near duplicate in the first. Within one split
        these are images with a near duplicate earlier in it.
      `nearest_neighbour`: for every split but the first, the accuracy (a share) of giving an image the label
        of its nearest training image. It is for all images and for those `without_twins` among the training
        images, where it is None if there are none.
    """
    names = list(splits)
    pairs, counts = [], []
    for i, first in enumerate(names):
        for second in names[i:]:
            within, close = _compare(splits[first], None if first == second else splits[second])
            pairs += _describe(close, (first, second), splits, class_names)
            counts.append({"splits": [first, second], "within": within})
    train = splits[names[0]]
    return {
        "classes": {name: _class_counts(split, class_names) for name, split in splits.items()},
        "near_duplicates": counts,
        "nearest_neighbour": {name: _nearest_neighbour(train, splits[name]) for name in names[1:]},
        "pairs": sorted(pairs, key=lambda pair: pair["distance"]),
    }


def _class_counts(split: Split, class_names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(split.labels, minlength=len(class_names)).tolist()
    return dict(zip(class_names, counts, strict=True))


def _compare(first: Split, second: Split | None) -> tuple[dict[str, Any], _Pairs]:
    """Counts near duplicates for each threshold, and returns the pairs to describe.

    Without `second` they are among the images of `first`.
    """
    others = first if second is None else second
    totals = [{"pairs": 0, "conflicts": 0} for _ in THRESHOLDS]
    is_in_pair = np.zeros((len(THRESHOLDS), len(others.labels)), bool)
    kept = _Pairs(*(np.empty(0, dtype) for dtype in (int, int, float, bool)))
    for left, right, distances in close_pairs(first.images, None if second is None else second.images):
        block = _Pairs(left, right, distances, first.labels[left] != others.labels[right])
        for row, threshold in enumerate(THRESHOLDS):
            is_close = distances <= threshold
            totals[row]["pairs"] += int(is_close.sum())
            totals[row]["conflicts"] += int((is_close & block.conflicts).sum())
            is_in_pair[row, right[is_close]] = True
        kept = _most_telling(kept, block)
    within = {
        f"{threshold:g}": {**total, "images": int(images)}
        for threshold, total, images in zip(THRESHOLDS, totals, is_in_pair.sum(1), strict=True)
    }
    return within, kept


def _most_telling(*blocks: _Pairs) -> _Pairs:
    """Returns the first `PAIRS_DESCRIBED` of all pairs, conflicts before others, then by distance."""
    pairs = _Pairs(*map(np.concatenate, zip(*blocks, strict=True)))
    order = np.lexsort((pairs.distances, ~pairs.conflicts))[:PAIRS_DESCRIBED]
    return _Pairs(*(column[order] for column in pairs))


def _describe(
    pairs: _Pairs, names: tuple[str, str], splits: dict[str, Split], class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Describes pairs of the two named splits, as entries of `pairs`."""
    first, second = (splits[name] for name in names)
    described = []
    for i, j, distance, conflict in zip(*(column.tolist() for column in pairs), strict=True):
        files = {}
        if first.files is not None and second.files is not None:
            files = {"files": [printable(str(first.files[i])), printable(str(second.files[j]))]}
        described.append(
            {
                "splits": list(names),
                "indices": [i, j],
                **files,
                "labels": [class_names[first.labels[i]], class_names[second.labels[j]]],
                "distance": round(distance, 3),
                "conflict": conflict,
            }
        )
    return described


def _nearest_neighbour(train: Split, split: Split) -> dict[str, Any]:
    """Returns the accuracy on `split` of the label of the nearest training image."""
    index, distances = nearest(split.images, train.images)
    hits = train.labels[index] == split.labels
    alone = distances > TWIN_DISTANCE
    return {
        "accuracy": float(hits.mean()),
        "images": len(hits),
        "without_twins": {
            "accuracy": float(hits[alone].mean()) if alone.any() else None,
            "images": int(alone.sum()),
        },
    }
