"""Evaluation of a network on a split: one jitted pass, every image counted once (DESIGN D6)."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tabulate import tabulate

from datasets.types import Split
from input_pipeline import BATCH_AXIS, evaluation_batches
from resnet.network import Network, Weights

Predictor = Callable[[Weights, np.ndarray], np.ndarray]


def make_predictor(network: Network, batch_size: int, mesh: Mesh) -> Predictor:
    """Returns a function of weights and images, uint8 [N, H, W, 3], that gives logits float32 [N, classes].

    Batches are of one size, so that it compiles once; their rows are split over `mesh`.
    """
    rows = NamedSharding(mesh, P(BATCH_AXIS))

    @jax.jit
    def logits_of_batch(weights: Weights, images: jax.Array) -> jax.Array:
        images = jax.lax.with_sharding_constraint(images, rows)
        return network.apply(weights, images, train=False)[0]

    def predict(weights: Weights, images: np.ndarray) -> np.ndarray:
        batches = evaluation_batches(images, batch_size)
        logits = [np.asarray(logits_of_batch(weights, batch)) for batch in batches]
        return np.concatenate(logits)[: len(images)]

    return predict


def evaluate(predict: Predictor, weights: Weights, split: Split) -> dict[str, float]:
    """Returns `accuracy` (top-1, share) and `loss` (mean cross-entropy, nats) of `weights` on `split`."""
    return accuracy_and_loss(predict(weights, split.images), split.labels)


def accuracy_and_loss(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`accuracy` and `loss` of `logits` [N, classes] for `labels` [N], summed in float64."""
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    return {
        "accuracy": float(np.mean(logits.argmax(-1) == labels)),
        "loss": float(losses.mean()),
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def full_report(logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy, loss, confusion matrix (rows: true class) and precision and recall of every class.

    Precision is None for a class that is never predicted, recall for one without images.
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
    return {
        **accuracy_and_loss(logits, labels),
        "images": len(labels),
        "classes": classes,
        "confusion_matrix": confusion.tolist(),
    }


def format_report(report: dict[str, Any]) -> str:
    """The tables that `--mode=eval` prints for a `full_report`."""
    names = [row["class"] for row in report["classes"]]
    confusion = [[name, *row] for name, row in zip(names, report["confusion_matrix"], strict=True)]
    return "\n\n".join(
        [
            f"accuracy {report['accuracy']:.4f}   loss {report['loss']:.4f}   images {report['images']}",
            tabulate(report["classes"], headers="keys", floatfmt=".4f", missingval="-"),
            tabulate(confusion, headers=["true \\ predicted", *names]),
        ]
    )
