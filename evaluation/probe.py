"""How well the features of a frozen network separate the classes: nearest neighbours and a linear probe.

Alain & Bengio 2016 (arXiv:1610.01644) put linear classifiers on frozen layers; Wu et al. 2018
(arXiv:1805.01978), section 3.4, weighted nearest neighbours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from datasets.splits import stratified_split
from datasets.types import Split
from evaluation.scores import accuracy_and_loss, log_softmax
from resnet.architecture import Architecture
from resnet.classifier import Classifier
from resnet.errors import UserError

NEIGHBOURS = 5  # Few, as classes are small here: Wu et al. take 200 of the 1,300 images of a class.
TEMPERATURE = 0.07  # as Wu et al. take
STRENGTHS = tuple(10.0**exponent for exponent in range(1, -7, -1))  # of L2, strong to weak
HELD_OUT = 0.2  # share of the training images that chooses the strength, where the run held out none
BLOCK = 1024  # images whose similarities to all training images are in memory at once


class LinearProbe(NamedTuple):
    """A linear classifier on standardised features: `mean`, `scale` [C], `kernel` [C, classes], `bias`."""

    mean: np.ndarray
    scale: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns logits float64 [N, classes] of `features` [N, C]."""
        return (features - self.mean) / self.scale @ self.kernel + self.bias


def layers_of(architecture: Architecture) -> tuple[str, ...]:
    """Returns the layers to probe: the stem and every stage.

    Pre-activation adds `pooled`, as the final norm comes between it and the last stage. Elsewhere `pooled` is
    the mean of the last stage over positions, which is the feature of that stage anyway.
    """
    stages = [f"stage{stage}" for stage in range(1, len(architecture.blocks) + 1)]
    return ("stem", *stages, *(["pooled"] if architecture.preactivation else []))


def probe_layers(
    classifier: Classifier, layers: Sequence[str], splits: dict[str, Split], own_head: bool
) -> dict[str, Any]:
    """Measures accuracy on the test images of k-NN and of a linear probe on the features of all `layers`.

    Features are means over positions. Both classifiers learn from `splits["train"]`. The strength of the
    probe is chosen by `splits["val"]` if there is one, and otherwise by a fifth of the training images. The
    test images are only measured on. Where there are none, the validation images take their place. With
    `own_head`, `network` is the accuracy of the network's own head.

    Raises:
        UserError: there are no test and no validation images, or too few training images to hold some out.
    """
    measured = "test"
    if "test" not in splits:
        if "val" not in splits:
            raise UserError(
                "--mode=probe: the data have no test and no validation images to measure on; set"
                " --config.data.test_fraction or --config.data.val_fraction"
            )
        measured = "validation"
        splits = {"train": splits["train"], "test": splits["val"]}
    train, test = splits["train"], splits["test"]
    chooser = "val" if "val" in splits else "train"
    if chooser == "train" and np.bincount(train.labels).max() < 3:
        raise UserError(
            f"--mode=probe: found {len(train.labels)} training images, of no class more than 2; expected at"
            " least 3, so that some can be held out"
        )
    features = {name: classifier.features_of(split.images, layers) for name, split in splits.items()}
    results: dict[str, Any] = {
        "layers": [
            _probe_layer(layer, {name: by_layer[layer] for name, by_layer in features.items()}, splits,
                         classes=len(classifier.class_names))
            for layer in layers
        ],
        "images": {name: len(split.labels) for name, split in splits.items()},
        "measured_on": measured,
        "neighbours": min(NEIGHBOURS, len(train.labels)),
        "strength_chosen_on": chooser if chooser == "val" else f"{HELD_OUT:.0%} of train",
    }  # fmt: skip
    if own_head:
        answers = classifier.probabilities(test.images).argmax(-1)
        results["network"] = float(np.mean(answers == test.labels))
    return results


def _probe_layer(
    layer: str, features: dict[str, np.ndarray], splits: dict[str, Split], *, classes: int
) -> dict[str, Any]:
    """Returns the accuracies of one layer; `features` [N, C] by the name of the split."""
    x, y, test = features["train"], splits["train"].labels, splits["test"]
    if "val" in splits:
        strength = choose_strength((x, y), (features["val"], splits["val"].labels), classes)
    else:
        kept, held_out = stratified_split(y, HELD_OUT, seed=0)
        strength = choose_strength((x[kept], y[kept]), (x[held_out], y[held_out]), classes)
    neighbours = knn_predict(x, y, features["test"], classes)
    linear = fit_linear(x, y, classes, strength).logits(features["test"]).argmax(-1)
    return {
        "layer": layer,
        "channels": x.shape[1],
        "knn": float(np.mean(neighbours == test.labels)),
        "linear": float(np.mean(linear == test.labels)),
        "strength": strength,
    }


def knn_predict(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    """Returns labels [M] of `queries` [M, C] by the `NEIGHBOURS` most similar rows of `features` [N, C].

    `labels` [N] belong to `features`. A neighbour votes with the weight exp(cosine / `TEMPERATURE`).
    """
    features, queries = _unit(features), _unit(queries)
    k = min(NEIGHBOURS, len(labels))
    predicted = []
    for start in range(0, len(queries), BLOCK):
        similarities = queries[start : start + BLOCK] @ features.T
        nearest = np.argpartition(-similarities, k - 1)[:, :k]
        weights = np.exp((np.take_along_axis(similarities, nearest, 1) - 1) / TEMPERATURE)
        votes = np.zeros((len(nearest), classes))
        np.add.at(votes, (np.arange(len(nearest))[:, None], labels[nearest]), weights)
        predicted.append(votes.argmax(-1))
    return np.concatenate(predicted)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def choose_strength(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], classes: int
) -> float:
    """Returns the one of `STRENGTHS` whose probe of `train` has the least cross-entropy on `held_out`.

    Both are features [N, C] and labels [N].
    """
    losses: dict[float, float] = {}
    probe = None
    for strength in STRENGTHS:
        probe = fit_linear(*train, classes, strength, start=probe)
        losses[strength] = accuracy_and_loss(probe.logits(held_out[0]), held_out[1])["loss"]
    return min(losses, key=losses.__getitem__)


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    *,
    start: LinearProbe | None = None,
) -> LinearProbe:
    """Fits multinomial logistic regression to standardised `features` [N, C] and `labels` [N] by L-BFGS.

    It minimises the mean cross-entropy plus `strength` / 2 times the squares of the kernel, in float64. The
    problem is convex, so `start`, the probe to start from, changes nothing but the time that it takes.
    """
    x = features.astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0  # channels that are the same for every image
    x = (x - mean) / scale
    targets = np.eye(classes)[labels]

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = np.split(flat.reshape(-1, classes), [-1])
        log_p = log_softmax(x @ kernel + bias)
        loss = -np.sum(targets * log_p) / len(x) + strength / 2 * np.sum(kernel**2)
        residual = (np.exp(log_p) - targets) / len(x)
        gradient = np.concatenate([x.T @ residual + strength * kernel, residual.sum(0)[None]])
        return loss, gradient.ravel()

    first = np.zeros((x.shape[1] + 1, classes)) if start is None else np.vstack([start.kernel, start.bias])
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-6, "ftol": 1e-12}
    optimum = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=options).x
    kernel, bias = np.split(optimum.reshape(-1, classes), [-1])
    return LinearProbe(mean, scale, kernel, bias[0])
