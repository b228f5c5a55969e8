"""What `main.py` does once JAX may start: one function a mode, each returning the exit code."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

import datasets
import report
import settings
from datasets.types import Split
from errors import UserError
from evaluate import format_report, full_report, make_predictor
from input_pipeline import first_training_batch, make_mesh, replicated
from resnet.checkpoint import Which
from resnet.classifier import BATCH_SIZE, Classifier, Pool, load_trained
from resnet.export import ExportFormat
from resnet.export import export as export_weights
from resnet.images import find_images
from resnet.network import check_image_size
from resnet.pretrained import adopt, read_pretrained
from resnet.summary import summarize

PICTURE_FILE = "show_batch.png"
BATCH_SHOWN = 32


def train(config: ConfigDict, workdir: Path) -> int:
    """Trains and prints where the results are. A signal's exit code is 128 plus its number."""
    import train as training  # The other modes need no optimizer and start faster without.

    try:
        summary = training.train_and_evaluate(config, workdir)
    except training.StopRun as stop:
        print(f"stopped and saved; the same command goes on from here: {workdir}")
        return 128 + stop.signum
    for name, measured in {"raw weights": summary, "moving average": summary.get("ema")}.items():
        if measured:
            test = measured["test"]
            print(f"test accuracy {test['accuracy']:.4f} loss {test['loss']:.4f} ({name})")
    print(f"results: {workdir}")
    return 0


def evaluate(workdir: Path, split_name: str, checkpoint: Which, raw: bool, as_json: bool) -> int:
    """Evaluates a checkpoint on a split, prints the report and writes it to `eval_<split>.json`."""
    config, class_names = settings.load(workdir)
    trained = load_trained(workdir, checkpoint, raw)
    split = _load_split(config, class_names, split_name)
    devices = jax.local_device_count()
    batch_size = -(-config.batch_size // devices) * devices  # The run may have had other devices.
    mesh = make_mesh(batch_size)
    predict = make_predictor(trained.classifier.network, batch_size, mesh)
    weights = jax.device_put(trained.classifier.weights, replicated(mesh))
    measured = {
        "split": split_name,
        "step": trained.step,
        "weights": trained.kind,
        **full_report(predict(weights, split.images), split.labels, class_names),
    }
    file = workdir / f"eval_{split_name}.json"
    report.write_json(measured, file)
    if as_json:
        print(json.dumps(measured))
    else:
        print(f"{split_name} split, step {trained.step}, {trained.kind} weights")
        print(format_report(measured))
        print(f"\nwritten: {file}")
    return 0


def _load_split(config: ConfigDict, class_names: tuple[str, ...], name: str) -> Split:
    dataset = datasets.load(config.data)
    if dataset.class_names != class_names:
        raise UserError(
            f"data set {config.data.name}: its classes are {', '.join(dataset.class_names)}, but the run was"
            f" trained on {', '.join(class_names)}; expected the data set that it was trained on"
        )
    train_split, val_split = datasets.train_val_split(dataset.train, config.data)
    if name == "val" and val_split is None:
        raise UserError(
            "--split=val: the run held out no validation images (config.data.val_fraction and"
            " config.data.folds are 0); expected --split=train or --split=test"
        )
    return {"train": train_split, "val": val_split, "test": dataset.test}[name]


def predict(workdir: Path, paths: Sequence[str], checkpoint: Which, raw: bool, as_json: bool) -> int:
    """Classifies image files and folders of them; 2 if any could not be read, the others are answered."""
    classifier = Classifier.load(workdir, checkpoint, raw)
    refused = Refused()
    predictions = (
        prediction
        for names, images in _prepared_batches(classifier, paths, refused)
        for prediction in classifier.predict_prepared(names, images)
    )
    if as_json:
        for prediction in predictions:
            print(json.dumps(prediction._asdict()), flush=True)
    elif rows := list(predictions):
        print(report.format_predictions(rows, classifier.class_names))
    return refused.exit_code


def features(
    workdir: Path, paths: Sequence[str], checkpoint: Which, raw: bool, layer: str, pool: Pool
) -> int:
    """Writes features of image files and folders to `features_<layer>.npz`; 2 if any could not be read."""
    classifier = Classifier.load(workdir, checkpoint, raw)
    classifier.check_layer(layer, pool)
    refused = Refused()
    file = workdir / f"features_{layer}.npz"
    with report.FeaturesWriter(file) as writer:
        for names, images in _prepared_batches(classifier, paths, refused):
            writer.write(names, classifier.features(np.stack(images), layer, pool))
    print(f"written: {file} ({len(writer.paths)} images)")
    return refused.exit_code


class Refused:
    """Prints what is wrong with an image when called, and remembers that there was one."""

    exit_code = 0

    def __call__(self, error: UserError) -> None:
        self.exit_code = 2
        print(f"error: {error}", file=sys.stderr, flush=True)


def _prepared_batches(
    classifier: Classifier, paths: Sequence[str], refuse: Callable[[UserError], None]
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yields names and prepared images in the order of the files, never holding more than a batch."""
    names, images = [], []
    for file in _files(paths, refuse):
        try:
            images.append(classifier.prepare(file))
        except UserError as error:
            refuse(error)
            continue
        # Bytes that are not UTF-8 cannot be printed.
        names.append(os.fsencode(file).decode(errors="replace"))
        if len(images) == BATCH_SIZE:
            yield names, images
            names, images = [], []
    if images:
        yield names, images


def _files(paths: Sequence[str], refuse: Callable[[UserError], None]) -> Iterator[Path]:
    for path in paths:
        try:
            yield from find_images([path])
        except UserError as error:
            refuse(error)


def export(workdir: Path, format: ExportFormat, checkpoint: Which, raw: bool) -> int:
    """Writes the run's weights for another framework into `export/` of its workdir."""
    config, class_names = settings.load(workdir)
    weights = load_trained(workdir, checkpoint, raw).classifier.weights
    print(f"written: {export_weights(config, weights, class_names, format, workdir / 'export')}")
    return 0


def summary(config: ConfigDict, num_classes: int) -> int:
    """Prints the table of the network's layers."""
    if config.init_from:
        config = adopt(config, read_pretrained(config.init_from))
    check_image_size(config.data.image_size)
    print(report.format_layers(summarize(config, num_classes)))
    return 0


def show_batch(config: ConfigDict, workdir: Path) -> int:
    """Draws what the first step of training sees into `show_batch.png`."""
    check_image_size(config.data.image_size)
    dataset = datasets.load(config.data)
    train_split, _ = datasets.train_val_split(dataset.train, config.data)
    images, labels = first_training_batch(train_split, config)
    captions = [dataset.class_names[label] for label in labels[:BATCH_SHOWN]]
    file = workdir / PICTURE_FILE
    report.write_picture(report.draw_grid(images[:BATCH_SHOWN], captions), file)
    print(f"written: {file}")
    return 0
