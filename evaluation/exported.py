"""ONNX models of one network compared: size, speed, and accuracy, also under corruptions."""

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from datasets.types import Split
from evaluation.corruptions import evaluate_corruptions
from resnet.onnx_classifier import OnnxClassifier

IMAGES = 1000  # of the split, at most
CORRUPTED_IMAGES = 120  # of those, each of them corrupted in 75 ways
BATCH_SIZE, ROUNDS = 32, 5


def compare_models(models: Mapping[str, OnnxClassifier], split: Split) -> dict[str, Any]:
    """Measures `models` by name: megabytes, images per second, and accuracy with and without corruptions.

    Speed is the median over rounds that alternate between the models, in batches of 32. Of a large split,
    evenly spaced images are taken.
    """
    measured, corrupted = evenly_spaced(split, IMAGES), evenly_spaced(split, CORRUPTED_IMAGES)
    speeds = _images_per_second(models, measured.images)
    rows = [
        {
            "model": name,
            "MB": model.path.stat().st_size / 1e6,
            "images/s": speeds[name],
            "accuracy": float((model.logits(measured.images).argmax(-1) == measured.labels).mean()),
            "corrupted": evaluate_corruptions(model.logits, corrupted, "standard")["mean"],
        }
        for name, model in models.items()
    ]
    return {"images": len(measured.labels), "corrupted_images": len(corrupted.labels), "models": rows}


def evenly_spaced(split: Split, count: int) -> Split:
    """Returns `count` images of `split`, or all where there are no more; splits may be sorted by class."""
    total = len(split.labels)
    return split.subset(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def _images_per_second(models: Mapping[str, OnnxClassifier], images: np.ndarray) -> dict[str, float]:
    batch = np.resize(images, (BATCH_SIZE, *images.shape[1:]))
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(1 + ROUNDS):  # The first one is for getting warm.
        for name, model in models.items():
            start = perf_counter()
            model.logits(batch)
            speeds[name].append(BATCH_SIZE / (perf_counter() - start))
    return {name: median(rounds[1:]) for name, rounds in speeds.items()}
