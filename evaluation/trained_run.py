"""A trained run read back, with its data, to be evaluated."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import datasets
from datasets.contents import DIGITS, image_table, training_images
from datasets.duplicates import has_twin
from datasets.folder import training_digests
from datasets.types import Dataset, Split
from devices.mesh import make_mesh, replicated
from evaluation.predictor import make_predictor
from evaluation.scores import ensemble_logits, full_report
from resnet.checkpoint import Which
from resnet.classifier import Trained, load_trained
from resnet.errors import UserError
from resnet.files import printable
from resnet.network import Network, Weights
from resnet.wording import first_of
from workdir import settings
from workdir.images_file import describe_changes
from workdir.statistics import by_seed

NAMES_SHOWN = 10  # classes in a message


class TrainedRun(NamedTuple):
    """A trained run with its data.

    `splits` by name are those of its data: train (as trained on), val if it held one out, and test. With
    `other_data`, the `data` part of a config, they are of another data set, prepared as for
    predictions of the run. `stored_train` are the training images before `config.data.store_size` is cropped
    to the network's size. `predict` takes images uint8 [N, H, W, 3] to logits float32 [N, classes]. `kind` of
    weights is `raw` or `ema`. `batch_size` is a multiple of the number of devices here.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    stored_train: Split
    network: Network
    weights: Weights
    step: int
    kind: str
    batch_size: int
    predict: Callable[[np.ndarray], np.ndarray]
    other_data: ConfigDict | None = None

    @property
    def main_split(self) -> str:
        """The split that is measured unless another is named: test, or else val, or else train."""
        return next(name for name in ("test", "val", "train") if name in self.splits)

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes results of this run from those of other weights or other ways to predict."""
        return {"step": self.step, "weights": self.kind, "prediction": settings.prediction(self.config)}

    def split(self, name: str) -> Split:
        """Returns the split of that name.

        Raises:
            UserError: there are no such images.
        """
        if name not in self.splits:
            kind = {"val": "validation", "test": "test"}[name]
            reason = f"the run held out no {kind} images, and its data set brings none"
            if self.other_data is not None:
                reason = f"the data of --config have no {kind} images"
            others = " or ".join(f"--split={other}" for other in self.splits)
            raise UserError(f"--split={name}: {reason}; expected {others}")
        return self.splits[name]

    def report(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns logits float32 [N, classes] on the split `name`, and their `full_report`."""
        split = self.split(name)
        logits = self.predict(split.images)
        return logits, full_report(logits, split.labels, self.class_names, self.twins(name))

    def twins(self, name: str) -> np.ndarray | None:
        """Returns which images of the split `name` have a near duplicate in training, bool [N].

        None for the training images themselves, and for a data set that the run was not trained on.
        """
        if name == "train" or self.other_data is not None:
            return None
        return has_twin(self.split(name).images, self.splits["train"].images)


def load_runs(
    workdir: Path, checkpoint: Which, raw: bool, other_data: ConfigDict | None = None
) -> list[TrainedRun]:
    """Loads the run in `workdir` with its data: one `TrainedRun` per seed, or one for a run of a single seed.

    `other_data`, the `data` part of a config, takes the place of the data that it was trained on.

    Raises:
        UserError: as `load_trained`. Or the data cannot be read, have other classes or another image size, or
            are not what the run was trained on.
    """
    config, class_names = settings.load(workdir)
    _check_image_size(config, other_data)
    trained = load_trained(workdir, checkpoint, raw)
    data = config.data
    if other_data is None:
        dataset = _load_own_data(data, class_names, workdir)
    else:
        data = other_data = _as_prepared_for(config, other_data)
        dataset = datasets.load(data)
        _check_classes(dataset, data, class_names, any_of_them=True)
        dataset = _with_labels_of(class_names, dataset)
    train, val = datasets.train_val_split(dataset, data)
    splits = datasets.splits_by_name(dataset._replace(train=train, val=val), data)
    return _with_data(trained, config, class_names, splits, stored_train=train, other_data=other_data)


def _as_prepared_for(config: ConfigDict, other_data: ConfigDict) -> ConfigDict:
    """Returns `other_data`, whose images are prepared as for predictions of the run of `config`."""
    data = other_data.copy_and_resolve_references()
    data.update(settings.preparation(config.data), store_size=0)  # Nothing is cropped from larger ones.
    return data


def files_trained_on(run: TrainedRun, split_name: str, workdir: Path) -> list[str]:
    """Returns the files of a split of another data set that `run`, in `workdir`, was trained on.

    A file counts if a training image has its name and its pixels. If the run has no table of its images, none
    counts.
    """
    files = run.split(split_name).files
    if files is None or run.other_data is None:
        return []
    trained = training_images(settings.stored_sources(workdir).table)
    known = [file for file in files.tolist() if printable(file) in trained]
    if not known:
        return []
    data = run.other_data.copy_and_resolve_references()
    data.store_size = run.config.data.store_size
    digests = zip(known, training_digests(data, known), strict=True)
    return [file for file, digest in digests if digest[:DIGITS] in trained[printable(file)]]


def load_own_splits(workdir: Path) -> dict[str, Split]:
    """Returns the splits by name that the run in `workdir` was trained on, as in `TrainedRun`.

    Raises:
        UserError: there is no trained run, or its data cannot be read or have changed.
    """
    config, class_names = settings.load(workdir)
    return datasets.splits_by_name(_load_own_data(config.data, class_names, workdir), config.data)


def _load_own_data(data: ConfigDict, class_names: tuple[str, ...], workdir: Path) -> Dataset:
    dataset = datasets.load(data)
    _check_classes(dataset, data, class_names, any_of_them=False)
    _check_trained_on(dataset, data, workdir)
    return dataset


def _with_data(
    trained: Sequence[Trained],
    config: ConfigDict,
    class_names: tuple[str, ...],
    splits: dict[str, Split],
    *,
    stored_train: Split,
    other_data: ConfigDict | None,
) -> list[TrainedRun]:
    """Returns the runs of the `trained` seeds on `splits`, which share one compiled program."""
    devices = jax.local_device_count()
    batch_size = -(-config.batch_size // devices) * devices  # The run may have had other devices.
    mesh = make_mesh(batch_size)
    network = trained[0].classifier.network
    predictor = make_predictor(network, batch_size, mesh)

    def run_of(seed: Trained) -> TrainedRun:
        weights = jax.device_put(seed.classifier.weights, replicated(mesh))
        return TrainedRun(
            config=config,
            class_names=class_names,
            splits=splits,
            stored_train=stored_train,
            network=network,
            weights=weights,
            step=seed.step,
            kind=seed.kind,
            batch_size=batch_size,
            predict=partial(predictor, weights),
            other_data=other_data,
        )

    return [run_of(seed) for seed in trained]


def _check_image_size(config: ConfigDict, other_data: ConfigDict | None) -> None:
    if other_data is not None and other_data.image_size != config.data.image_size:
        raise UserError(
            f"config.data.image_size={other_data.image_size}: the run was trained on images of"
            f" {config.data.image_size} pixels; set it to that"
        )


def _check_classes(
    dataset: Dataset, data: ConfigDict, class_names: tuple[str, ...], *, any_of_them: bool
) -> None:
    """Checks that `dataset` has the classes of the run, or with `any_of_them` none besides them."""
    is_fit = (
        set(dataset.class_names) <= set(class_names) if any_of_them else dataset.class_names == class_names
    )
    if not is_fit:
        raise UserError(
            f"data set {datasets.display_name(data)}: its classes are"
            f" {first_of(dataset.class_names, NAMES_SHOWN)}, but the run was trained on"
            f" {first_of(class_names, NAMES_SHOWN)}; expected a data set of the same classes"
        )


def _with_labels_of(class_names: tuple[str, ...], dataset: Dataset) -> Dataset:
    """Returns `dataset` with the labels that its classes have among `class_names`."""
    labels = np.array([class_names.index(name) for name in dataset.class_names], np.int32)
    train, test, val = (
        split and split._replace(labels=labels[split.labels])
        for split in (dataset.train, dataset.test, dataset.val)
    )
    return dataset._replace(train=train, test=test, val=val, class_names=class_names)


def _check_trained_on(dataset: Dataset, data: ConfigDict, workdir: Path) -> None:
    stored = settings.stored_sources(workdir)
    changes = describe_changes(stored.table, image_table(dataset)) if stored.table else ""
    if changes or stored.images not in ("", dataset.train.digest()):
        raise UserError(
            f"data set {datasets.display_name(data)}: its images are not those of the run in {workdir}"
            f"{f' ({changes})' if changes else ''}, so that nothing tells what it has seen; name those, for"
            " SIGNS by SIGNS_DIR, or measure images that it has not seen as another data set, with --config"
        )


def report_seeds(runs: Sequence[TrainedRun], split_name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns logits float64 [N, classes] of the ensemble on a split, and the report on all of `runs`.

    The report holds the `full_report` of every seed under `seeds`, their `mean` and `std`, and the
    `full_report` of the `ensemble`.
    """
    logits_by_seed, reports = zip(*(run.report(split_name) for run in runs), strict=True)
    run, logits = runs[0], ensemble_logits(logits_by_seed)
    labels, twins = run.split(split_name).labels, run.twins(split_name)
    ensemble = full_report(logits, labels, run.class_names, twins)
    return logits, {**by_seed(run.config.seeds, reports), "ensemble": ensemble}
