"""How much of the classes each stage of a frozen network tells: nearest neighbours and a linear probe.

Alain & Bengio 2016 (arXiv:1610.01644) put linear classifiers on frozen layers; Wu et al. 2018
(arXiv:1805.01978), section 3.4, weighted nearest neighbours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy.optimize import minimize
from tabulate import tabulate

from datasets.splits import stratified_split
from datasets.types import Split
from errors import UserError
from evaluate import accuracy_and_loss, log_softmax
from resnet.architecture import Architecture
from resnet.classifier import Classifier

NEIGHBOURS = 5  # Few, as classes are small here: Wu et al. take 200 of the 1,300 images of a class.
TEMPERATURE = 0.07  # as Wu et al. take
STRENGTHS = tuple(10.0**exponent for exponent in range(1, -7, -1))  # of L2, strong to weak
HELD_OUT = 0.2  # share of the training images that chooses the strength, where the run held out none
BLOCK = 1024  # images whose similarities to all training images are in memory at once


class LinearProbe(NamedTuple):
    """A linear classifier of standardised features: `mean` and `scale` [C], `kernel` [C, classes], `bias`."""

    mean: np.ndarray
    scale: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits float64 [N, classes] of `features` [N, C]."""
        return (features - self.mean) / self.scale @ self.kernel + self.bias


def layers_of(config: ConfigDict) -> tuple[str, ...]:
    """The stem and every stage of the network of `config`.

    Pre-activation adds `pooled`: the final norm comes between it and the last stage. Elsewhere `pooled` is
    the last stage's mean over positions, which is what a probe sees anyway.
    """
    architecture = Architecture.from_config(config.model)
    stages = [f"stage{stage}" for stage in range(1, len(architecture.blocks) + 1)]
    return ("stem", *stages, *(["pooled"] if architecture.preactivation else []))


def probe_layers(
    classifier: Classifier, layers: Sequence[str], splits: dict[str, Split], own_head: bool
) -> dict[str, Any]:
    """Accuracy on the test images of k-NN and of a linear probe on the features of each of `layers`.

    Features are means over positions. Both learn from `splits["train"]`; the probe's strength is chosen by
    `splits["val"]`, where there is one, else by a fifth of the training images. The test images are for
    measuring alone. `own_head` asks for the accuracy of the network's own head beside them, `network`.

    Raises:
        UserError: there are too few training images to hold some out.
    """
    train, test = splits["train"], splits["test"]
    classes = len(classifier.class_names)
    chooser = "val" if "val" in splits else "train"
    if chooser == "train" and np.bincount(train.labels).max() < 3:
        raise UserError(
            f"--mode=probe: found {len(train.labels)} training images, of no class more than 2; expected at"
            " least 3, so that some can be held out"
        )
    features = {name: classifier.features_of(split.images, layers) for name, split in splits.items()}
    rows = []
    for layer in layers:
        x, y = features["train"][layer], train.labels
        if chooser == "val":
            strength = choose_strength((x, y), (features["val"][layer], splits["val"].labels), classes)
        else:
            kept, held_out = stratified_split(y, HELD_OUT, seed=0)
            strength = choose_strength((x[kept], y[kept]), (x[held_out], y[held_out]), classes)
        neighbours = knn_predict(x, y, features["test"][layer], classes)
        linear = fit_linear(x, y, classes, strength).logits(features["test"][layer]).argmax(-1)
        rows.append(
            {
                "layer": layer,
                "channels": x.shape[1],
                "knn": float(np.mean(neighbours == test.labels)),
                "linear": float(np.mean(linear == test.labels)),
                "strength": strength,
            }
        )
    measured = {
        "layers": rows,
        "images": {name: len(split.labels) for name, split in splits.items()},
        "neighbours": min(NEIGHBOURS, len(train.labels)),
        "strength_chosen_on": chooser if chooser == "val" else f"{HELD_OUT:.0%} of train",
    }
    if own_head:
        answers = classifier.probabilities(test.images).argmax(-1)
        measured["network"] = float(np.mean(answers == test.labels))
    return measured


def knn_predict(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    """Labels [M] of `queries` [M, C] by the `NEIGHBOURS` most similar rows of `features` [N, C].

    `labels` [N] are theirs. A neighbour votes with the weight exp(cosine / `TEMPERATURE`).
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
    """The one of `STRENGTHS` whose probe of `train` has the least cross-entropy on `held_out`.

    Both are features [N, C] and labels [N].
    """
    losses, probe = {}, None
    for strength in STRENGTHS:
        probe = fit_linear(*train, classes, strength, start=probe)
        losses[strength] = accuracy_and_loss(probe.logits(held_out[0]), held_out[1])["loss"]
    return min(losses, key=losses.get)


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    start: LinearProbe | None = None,
) -> LinearProbe:
    """Multinomial logistic regression on `features` [N, C], standardised, with `labels` [N], by L-BFGS.

    Minimises the mean cross-entropy plus `strength` / 2 times the squares of the kernel, in float64. It is
    convex: `start`, from which to go on, changes how long it takes and no more.
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
    found = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    kernel, bias = np.split(found.x.reshape(-1, classes), [-1])
    return LinearProbe(mean, scale, kernel, bias[0])


def format_probe(measured: dict[str, Any]) -> str:
    """The table that `--mode=probe` prints for what `probe_layers` returns."""
    rows = [
        (row["layer"], row["channels"], f"{row['knn']:.4f}", f"{row['linear']:.4f}", f"{row['strength']:g}")
        for row in measured["layers"]
    ]
    headers = ["layer", "channels", f"{measured['neighbours']}-NN", "linear probe", "its L2"]
    table = tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * 4])
    images = measured["images"]
    lines = [f"accuracy on {images['test']} test images, from features of {images['train']} training images"]
    if "network" in measured:
        lines.append(f"the network's own head: {measured['network']:.4f}")
    return "\n".join([*lines, "", table])
