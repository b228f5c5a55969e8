"""Scores of predictions against labels: accuracy, loss, calibration, confusion, precision and recall."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np

from workdir.statistics import format_spread

CALIBRATION_BINS = 15  # as in Guo et al. 2017
SEED_COLUMNS = {  # where a `full_report` has the columns of the table of seeds
    "accuracy": ("accuracy",),
    "loss": ("loss",),
    "ECE": ("calibration", "ece"),
    "accuracy, {images} without a near twin": ("without_twins", "accuracy"),
    "loss of these": ("without_twins", "loss"),
    "ECE of these": ("without_twins", "ece"),
}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def ensemble_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Returns logits [N, classes] whose softmax is the mean of the softmax of all `logits` [N, classes]."""
    return np.logaddexp.reduce([log_softmax(member) for member in logits]) - np.log(len(logits))


def accuracy_and_loss(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns `accuracy` and `loss` of `logits` [N, classes] for `labels` [N], summed in float64."""
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    return {
        "accuracy": float(np.mean(logits.argmax(-1) == labels)),
        "loss": float(losses.mean()),
    }


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """Returns how well the probability of the predicted class agrees with how often it is right.

    Images fall into `bins` of equal width by that probability. The expected calibration error, `ece`, is
    the mean over images of the gap between accuracy and mean probability in their bin (Guo et al. 2017,
    arXiv:1706.04599, section 2). `bins` lists those that hold images: `low`, `high`, `images`, `confidence`
    (mean probability) and `accuracy`.
    """
    confidence = np.exp(log_softmax(logits).max(-1))
    hits = logits.argmax(-1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "images": int((index == i).sum()),
            "confidence": float(confidence[index == i].mean()),
            "accuracy": float(hits[index == i].mean()),
        }
        for i in np.unique(index).tolist()
    ]
    gaps = [row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
    return {"ece": sum(gaps) / len(labels), "bins": rows}


def full_report(
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    twins: np.ndarray | None = None,
) -> dict[str, Any]:
    """Returns accuracy, loss, calibration, confusion matrix (rows: true class), and every class's scores.

    `balanced_accuracy` is the mean recall of the classes that have images (Brodersen et al. 2010, "The
    balanced accuracy and its posterior distribution"), which large classes do not dominate.
    Precision is None for a class that is never predicted, recall for a class without images. `twins`, bool
    [N], marks images with a near duplicate in training; `without_twins` has the scores of the others.
    """
    count = len(class_names)
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    hits, predicted, actual = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    classes = [
        {
            "class": name,
            "images": int(actual[i]),
            "precision": float(hits[i] / predicted[i]) if predicted[i] else None,
            "recall": float(hits[i] / actual[i]) if actual[i] else None,
        }
        for i, name in enumerate(class_names)
    ]
    recalls = [row["recall"] for row in classes if row["recall"] is not None]
    report = {
        **accuracy_and_loss(logits, labels),
        "balanced_accuracy": float(np.mean(recalls)),
        "images": len(labels),
        "classes": classes,
        "confusion_matrix": confusion.tolist(),
        "calibration": calibration(logits, labels),
    }
    if twins is not None:
        report["without_twins"] = _scores_without(twins, logits, labels)
    return report


def frequent_confusions(report: dict[str, Any], most: int) -> list[tuple[str, str, int]]:
    """Returns the `most` frequent mistakes of a `full_report`: true class, predicted class, their number."""
    names = [row["class"] for row in report["classes"]]
    mistakes = np.array(report["confusion_matrix"])
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [(names[i], names[j], int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]


def hardest_classes(report: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Returns the scores of the `most` classes of a `full_report` with the lowest recall, lowest first."""
    rows = [row for row in report["classes"] if row["recall"] is not None]
    return sorted(rows, key=lambda row: row["recall"])[:most]


def _scores_without(twins: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    alone = ~twins
    scores: dict[str, Any] = {}
    if alone.any():
        scores = accuracy_and_loss(logits[alone], labels[alone])
        scores["ece"] = calibration(logits[alone], labels[alone])["ece"]
    return {**scores, "images": int(alone.sum())}


def seed_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns headers and rows of the table of a `report_seeds`: the seeds, mean ± std, the ensemble."""
    alone = report["ensemble"].get("without_twins", {}).get("images", 0)
    columns = {
        name.format(images=alone): path
        for name, path in SEED_COLUMNS.items()
        if alone or path[0] != "without_twins"
    }

    def score(scores: Mapping[str, Any], path: Sequence[str]) -> Any:
        return reduce(getitem, path, scores)

    def row(name: str, scores: Mapping[str, Any]) -> list[str]:
        return [name, *(f"{score(scores, path):.4f}" for path in columns.values())]

    spread = [
        format_spread(score(report["mean"], path), score(report["std"], path)) for path in columns.values()
    ]
    return ["seed", *columns], [
        *(row(seed, scores) for seed, scores in report["seeds"].items()),
        ["mean ± std", *spread],
        row("ensemble", report["ensemble"]),
    ]
