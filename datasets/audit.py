"""Finds what is wrong with a labelled data set, by its pixels: duplicates, leaks, conflicts, imbalance.

A split drawn at random from bursts of photographs has near-identical images on both sides. A nearest
neighbour on raw pixels then scores well, and its score is the baseline that a network must beat.
"""

from typing import Any

import numpy as np

from datasets.duplicates import TWIN_DISTANCE, close_pairs, nearest
from datasets.types import Split
from resnet.files import printable

THRESHOLDS = (0.0, 6.0, TWIN_DISTANCE)  # grey levels: identical, very close, twins


def audit(splits: dict[str, Split], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Compares the images of all splits, within a split and across splits.

    Args:
      splits: by name, such as train, val and test. The first is the training split.
      class_names: of the labels.

    Returns a JSON-ready dictionary:
      `classes`: number of images of each class in each split.
      `pairs`: close pairs within each split and across any two, closest first. A pair has `splits`,
        `indices`, `labels` (class names), `distance` and `conflict` (whether the labels differ), and `files`
        where the images have files.
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
            others = None if first == second else splits[second].images
            new_pairs = [
                _describe(pair, (first, second), splits, class_names)
                for pair in close_pairs(splits[first].images, others)
            ]
            pairs += new_pairs
            counts.append({"splits": [first, second], "within": _count(new_pairs)})
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


def _describe(
    pair: tuple[int, int, float],
    names: tuple[str, str],
    splits: dict[str, Split],
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """Describes a pair from `close_pairs` between the two named splits, as an entry of `pairs`."""
    i, j, distance = pair
    first, second = (splits[name] for name in names)
    labels = [class_names[first.labels[i]], class_names[second.labels[j]]]
    files = {}
    if first.files is not None and second.files is not None:
        files = {"files": [printable(str(first.files[i])), printable(str(second.files[j]))]}
    return {
        "splits": list(names),
        "indices": [i, j],
        **files,
        "labels": labels,
        "distance": round(distance, 3),
        "conflict": labels[0] != labels[1],
    }


def _count(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts near duplicates for each threshold."""
    counts = {}
    for threshold in THRESHOLDS:
        close = [pair for pair in pairs if pair["distance"] <= threshold]
        counts[f"{threshold:g}"] = {
            "pairs": len(close),
            "conflicts": sum(pair["conflict"] for pair in close),
            "images": len({pair["indices"][1] for pair in close}),
        }
    return counts


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
