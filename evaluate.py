"""Evaluation of a network on a split: one jitted pass, every image counted once."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from tabulate import tabulate
from tqdm import tqdm

import datasets
import settings
from datasets.duplicates import has_twin
from datasets.types import Split
from errors import UserError
from input_pipeline import BATCH_AXIS, evaluation_batches, make_mesh, replicated
from resnet.checkpoint import Which
from resnet.classifier import load_trained
from resnet.network import Arranged, Network, Weights
from spread import by_seed, format_spread

CALIBRATION_BINS = 15  # as Guo et al. 2017 take
SEED_MEASURES = {  # where a `full_report` has what the table of seeds shows
    "accuracy": ("accuracy",),
    "loss": ("loss",),
    "ECE": ("calibration", "ece"),
    "accuracy, {images} without a near twin": ("without_twins", "accuracy"),
    "loss of these": ("without_twins", "loss"),
    "ECE of these": ("without_twins", "ece"),
}

Predictor = Callable[[Weights, np.ndarray], np.ndarray]


class TrainedRun(NamedTuple):
    """A run read back to be measured.

    `splits` are those of its data by name: train (as trained on), val if it held one out, test; or, where
    `on_other_data`, those of a data set that it was not trained on.
    `predict` takes images uint8 [N, H, W, 3] to logits float32 [N, classes]. `kind` of weights is `raw`
    or `ema`, `batch_size` a multiple of the number of devices here.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    network: Network
    weights: Weights
    step: int
    kind: str
    batch_size: int
    predict: Callable[[np.ndarray], np.ndarray]
    on_other_data: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What tells a measurement of this run from one of other weights, or of other ways to predict."""
        return {"step": self.step, "weights": self.kind, "prediction": settings.prediction(self.config)}

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            UserError: the run held out no validation images, and `name` is val.
        """
        if name not in self.splits:
            raise UserError(
                f"--split={name}: the run held out no validation images (config.data.val_fraction and"
                " config.data.folds are 0); expected --split=train or --split=test"
            )
        return self.splits[name]

    def report(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Logits float32 [N, classes] on the split `name`, and their `full_report`."""
        split = self.split(name)
        logits = self.predict(split.images)
        return logits, full_report(logits, split.labels, self.class_names, self.twins(name))

    def twins(self, name: str) -> np.ndarray | None:
        """Which images of the split `name` have a near duplicate in training, bool [N].

        None of training images themselves, and of a data set that the run was not trained on.
        """
        if name == "train" or self.on_other_data:
            return None
        return has_twin(self.split(name).images, self.splits["train"].images)


def load_runs(
    workdir: Path, checkpoint: Which, raw: bool, other_data: ConfigDict | None = None
) -> list[TrainedRun]:
    """Loads the network of each seed of the run in `workdir`, one for a run of a single seed, and its data.

    Or `other_data`, the `data` part of a config, to measure it on.

    Raises:
        UserError: there is no trained run, or its seeds stand at different steps; the data cannot be read,
            are not those that it was trained on, or have other classes or another image size.
    """
    config, class_names = settings.load(workdir)
    if other_data is not None and other_data.image_size != config.data.image_size:
        raise UserError(
            f"config.data.image_size={other_data.image_size}: the run was trained on images of"
            f" {config.data.image_size} pixels; set it to that"
        )
    trained = load_trained(workdir, checkpoint, raw)
    data = config.data if other_data is None else other_data
    dataset = datasets.load(data)
    if dataset.class_names != class_names:
        raise UserError(
            f"data set {data.name}: its classes are {', '.join(dataset.class_names)}, but the run was"
            f" trained on {', '.join(class_names)}; expected a data set of the same classes"
        )
    if other_data is None and settings.trained_on(workdir) not in ("", dataset.train.digest()):
        raise UserError(
            f"data set {data.name}: its training images are not those that the run in {workdir} was trained"
            " on, so that nothing tells what it has seen; name those, for SIGNS by SIGNS_DIR, or measure"
            " these as another data set, with --config"
        )
    train, val = datasets.train_val_split(dataset.train, data)
    has_best = config.data.folds or config.data.val_fraction  # else the newest one is the best
    if len({each.step for each in trained}) > 1 and (not has_best or checkpoint == "last"):
        steps = ", ".join(f"{seed}: {each.step}" for seed, each in zip(config.seeds, trained, strict=True))
        raise UserError(
            f"{workdir}: its seeds stand at different steps ({steps}), and have no mean; train on to the end,"
            f" or name the folder of one, such as {settings.seed_workdirs(config, workdir)[0]}"
        )
    splits = {"train": train} | ({} if val is None else {"val": val}) | {"test": dataset.test}
    devices = jax.local_device_count()
    batch_size = -(-config.batch_size // devices) * devices  # The run may have had other devices.
    mesh = make_mesh(batch_size)
    network = trained[0].classifier.network
    predictor = make_predictor(network, batch_size, mesh)
    runs = []
    for classifier, step, kind in trained:
        weights = jax.device_put(classifier.weights, replicated(mesh))
        predict = partial(predictor, weights)
        runs.append(
            TrainedRun(
                config,
                class_names,
                splits,
                network,
                weights,
                step,
                kind,
                batch_size,
                predict,
                on_other_data=other_data is not None,
            )
        )
    return runs


def ensemble_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Logits [N, classes] whose softmax is the mean of the softmax of each of `logits` [N, classes]."""
    return np.logaddexp.reduce([log_softmax(each) for each in logits]) - np.log(len(logits))


def make_predictor(network: Network, batch_size: int, mesh: Mesh) -> Predictor:
    """Returns a function of weights and images, uint8 [N, H, W, 3], that gives logits float32 [N, classes].

    Batches are of one size, so that it compiles once; their rows are split over `mesh`.
    """
    rows = NamedSharding(mesh, P(BATCH_AXIS))

    @partial(jax.jit, static_argnums=1, out_shardings=replicated(mesh))
    def arrange(weights: Weights, batch_shape: tuple[int, ...]) -> Arranged:
        return network.arrange(weights, batch_shape)

    @jax.jit
    def logits_of_batch(weights: Weights, arranged: Arranged, images: jax.Array) -> jax.Array:
        images = jax.lax.with_sharding_constraint(images, rows)
        return network.predict(weights, arranged, images)

    def predict(weights: Weights, images: np.ndarray) -> np.ndarray:
        arranged = arrange(weights, (batch_size, *images.shape[1:]))
        batches = evaluation_batches(images, batch_size)
        logits = [np.asarray(logits_of_batch(weights, arranged, batch)) for batch in batches]
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


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """How far the probability of the predicted class is to be believed.

    Images fall into `bins` of equal width by that probability; `ece`, the expected calibration error, is
    the mean over images of the gap between their bin's accuracy and mean probability (Guo et al. 2017,
    arXiv:1706.04599, section 2). Returns it with the `bins` that hold images: `low`, `high`, `images`,
    `confidence` (mean probability) and `accuracy`.
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
    """Accuracy, loss, calibration, confusion matrix (rows: true class), precision and recall of every class.

    Precision is None for a class that is never predicted, recall for one without images. `twins`, bool
    [N], says which images have a near duplicate in training: those without are then measured apart too.
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
    report = {
        **accuracy_and_loss(logits, labels),
        "images": len(labels),
        "classes": classes,
        "confusion_matrix": confusion.tolist(),
        "calibration": calibration(logits, labels),
    }
    if twins is not None:
        alone = ~twins
        measured = {}
        if alone.any():
            measured = accuracy_and_loss(logits[alone], labels[alone])
            measured["ece"] = calibration(logits[alone], labels[alone])["ece"]
        report["without_twins"] = {**measured, "images": int(alone.sum())}
    return report


def report_seeds(runs: Sequence[TrainedRun], split_name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits float64 [N, classes] of the ensemble on a split, and what all of `runs` have to report.

    That is the `full_report` of each under `seeds`, their `mean` and `std`, and the one of the `ensemble`.
    """
    of_each, reports = zip(*(run.report(split_name) for run in runs), strict=True)
    run, logits = runs[0], ensemble_logits(of_each)
    labels, twins = run.split(split_name).labels, run.twins(split_name)
    together = full_report(logits, labels, run.class_names, twins)
    return logits, {**by_seed(run.config.seeds, reports), "ensemble": together}


def evaluate_corruptions(
    predict: Callable[[np.ndarray], np.ndarray], split: Split, group: str
) -> dict[str, Any]:
    """Accuracy under each corruption of `group`, standard or extra, at each severity; see `corruptions`.

    Returns `clean`, `corruptions` (name to the accuracies of severities 1 to 5), `by_severity` (their means
    over corruptions) and `mean` (over all).
    """
    from datasets import corruptions  # brings SciPy, which most modes do without

    accuracies = {name: [] for name in corruptions.GROUPS[group]}
    steps = [(name, severity) for name in accuracies for severity in corruptions.SEVERITIES]
    for name, severity in tqdm(steps, unit="set", disable=None, leave=False):
        images = corruptions.corrupt(split.images, name, severity)
        accuracies[name].append(float(np.mean(predict(images).argmax(-1) == split.labels)))
    table = np.array(list(accuracies.values()))
    return {
        "clean": float(np.mean(predict(split.images).argmax(-1) == split.labels)),
        "mean": float(table.mean()),
        "by_severity": table.mean(0).tolist(),
        "corruptions": accuracies,
        "images": len(split.labels),
    }


def format_corruptions(measured: dict[str, Any]) -> str:
    """The table that `--mode=eval --corruptions` prints for what `evaluate_corruptions` returns.

    Of several seeds it is the mean over them.
    """
    if "seeds" in measured:
        seeds = list(measured["seeds"].values())
        means = {**seeds[0], **measured["mean"]}
        spread = format_spread(means["mean"], measured["std"]["mean"])
        return f"{spread} over {len(seeds)} seeds, all of these are means:\n{format_corruptions(means)}"
    accuracies = measured["corruptions"]
    rows = [[name, *row, np.mean(row)] for name, row in accuracies.items()]
    rows.append(["mean", *measured["by_severity"], measured["mean"]])
    severities = [f"severity {i}" for i in range(1, len(measured["by_severity"]) + 1)]
    head = f"accuracy {measured['clean']:.4f} clean, {measured['mean']:.4f} mean under corruptions"
    table = tabulate(rows, headers=["corruption", *severities, "mean"], floatfmt=".3f")
    return f"{head}   images {measured['images']}\n\n{table}"


def format_report(report: dict[str, Any]) -> str:
    """The tables that `--mode=eval` prints for a `full_report`, or for a `report_seeds`."""
    if "seeds" in report:
        headers, rows = table_of_seeds(report)
        table = tabulate(rows, headers, disable_numparse=True)
        return f"{table}\n\nensemble: {format_report(report['ensemble'])}"
    names = [row["class"] for row in report["classes"]]
    confusion = [[name, *row] for name, row in zip(names, report["confusion_matrix"], strict=True)]
    head = [
        f"accuracy {report['accuracy']:.4f}   loss {report['loss']:.4f}   images {report['images']}",
        f"expected calibration error {report['calibration']['ece']:.4f}",
    ]
    if alone := report.get("without_twins"):
        count = f"{alone['images']} of {report['images']} images have no near duplicate in training"
        measured = f"accuracy {alone['accuracy']:.4f}   loss {alone['loss']:.4f}" if alone["images"] else ""
        head.append(f"{count}{': ' if measured else ''}{measured}")
    return "\n\n".join(
        [
            "\n".join(head),
            tabulate(report["classes"], headers="keys", floatfmt=".4f", missingval="-"),
            tabulate(confusion, headers=["true \\ predicted", *names]),
        ]
    )


def table_of_seeds(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of what a `report_seeds` tells: each seed, mean ± std, the ensemble."""
    alone = report["ensemble"].get("without_twins", {}).get("images", 0)
    measures = {name: path for name, path in SEED_MEASURES.items() if alone or path[0] != "without_twins"}
    columns = measures.values()

    def at(measured: dict[str, Any], path: Sequence[str]) -> Any:
        return reduce(getitem, path, measured)

    def row(name: str, measured: dict[str, Any]) -> list[str]:
        return [name, *(f"{at(measured, path):.4f}" for path in columns)]

    spread = [format_spread(at(report["mean"], path), at(report["std"], path)) for path in columns]
    return ["seed", *(name.format(images=alone) for name in measures)], [
        *(row(seed, measured) for seed, measured in report["seeds"].items()),
        ["mean ± std", *spread],
        row("ensemble", report["ensemble"]),
    ]
