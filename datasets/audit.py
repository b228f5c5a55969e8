"""What is wrong with a labelled data set, by its pixels: duplicates, leaks, conflicts, imbalance.

A split drawn at random from bursts of photographs has near-identical images on both sides, and then a
nearest neighbour on raw pixels scores well: what it reaches is the baseline that a network must beat.
"""

from typing import Any

import numpy as np

from datasets.duplicates import TWIN_DISTANCE, close_pairs, nearest
from datasets.types import Split

IDENTICAL, VERY_CLOSE = 0.0, 6.0  # grey levels RMS; thresholds to count at, beside TWIN_DISTANCE


def audit(splits: dict[str, Split], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Looks at `splits` by name, such as train, val and test; the first is taken as what is trained on.

    Returns a JSON-ready dictionary:
      `classes`: images of each class in each split.
      `pairs`: what is close, within each split and across each two of them, closest first; a pair
        has `splits`, `indices`, `labels` (class names), `distance` and `conflict` (labels differ).
      `near_duplicates`: for each two splits and threshold, the pairs, those of them in `conflict`, and
        the `images` of the second split that have a near duplicate in the first (within one split:
        earlier in it).
      `nearest_neighbour`: for every split but the first, accuracy (share) of the label of the nearest
        image of the first, on all images and on those `without_twins` there (None if there are none).
    """
    names = list(splits)
    pairs, counts = [], []
    for i, first in enumerate(names):
        for second in names[i:]:
            among = first == second
            found = close_pairs(splits[first].images, None if among else splits[second].images)
            described = [_describe(pair, first, second, splits, class_names) for pair in found]
            pairs += described
            counts.append(_count(described, first, second))
    train = splits[names[0]]
    return {
        "classes": {
            name: dict(
                zip(class_names, np.bincount(split.labels, minlength=len(class_names)).tolist(), strict=True)
            )
            for name, split in splits.items()
        },
        "near_duplicates": counts,
        "nearest_neighbour": {name: _nearest_neighbour(train, splits[name]) for name in names[1:]},
        "pairs": sorted(pairs, key=lambda pair: pair["distance"]),
    }


def _describe(
    pair: tuple[int, int, float],
    first: str,
    second: str,
    splits: dict[str, Split],
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    i, j, distance = pair
    labels = [class_names[splits[first].labels[i]], class_names[splits[second].labels[j]]]
    return {
        "splits": [first, second],
        "indices": [i, j],
        "labels": labels,
        "distance": round(distance, 3),
        "conflict": labels[0] != labels[1],
    }


def _count(pairs: list[dict[str, Any]], first: str, second: str) -> dict[str, Any]:
    within = {}
    for threshold in (IDENTICAL, VERY_CLOSE, TWIN_DISTANCE):
        close = [pair for pair in pairs if pair["distance"] <= threshold]
        within[f"{threshold:g}"] = {
            "pairs": len(close),
            "conflicts": sum(pair["conflict"] for pair in close),
            "images": len({pair["indices"][1] for pair in close}),
        }
    return {"splits": [first, second], "within": within}


def _nearest_neighbour(train: Split, split: Split) -> dict[str, Any]:
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
