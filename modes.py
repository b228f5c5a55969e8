"""What `main.py` does once JAX may start: one function a mode, each returning the exit code."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

import datasets
import report
import settings
from datasets.audit import audit as audit_data
from datasets.types import Split
from errors import UserError
from evaluate import evaluate_corruptions, format_corruptions, format_report, load_runs, report_seeds
from evaluate_folder import evaluate_crops, format_crops, labelled_images
from files import write_json, write_result
from input_pipeline import first_training_batch
from report.features import FeaturesWriter
from resnet.checkpoint import Which
from resnet.classifier import BATCH_SIZE, Classifier, Pool, join, load_trained
from resnet.export import ExportFormat, describe_input
from resnet.export import export as export_weights
from resnet.images import find_images
from resnet.network import Network, check_image_size
from resnet.pretrained import adopt, initial_weights, load_pretrained, read_pretrained
from resnet.summary import summarize
from spread import by_seed, format_spread, mean_and_std

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
    seeds = list(summary.get("seeds", {0: summary}).values())
    for name, tests in {
        "raw weights": [seed["test"] for seed in seeds],
        "moving average": [seed["ema"]["test"] for seed in seeds if "ema" in seed],
    }.items():
        if tests:
            spread = mean_and_std(tests)
            accuracy, loss = (
                format_spread(spread["mean"][n], spread["std"][n]) for n in ("accuracy", "loss")
            )
            print(f"test accuracy {accuracy} loss {loss} ({name})")
    _write_report_once(workdir)
    print(f"results: {workdir}")
    return 0


def _write_report_once(workdir: Path) -> None:
    """Writes the report of a finished run where there is none yet; the run is whole with or without it."""
    from report import page  # It brings matplotlib, which would make every start slower.

    written = workdir / page.FOLDER / page.PAGE
    try:
        if not written.exists() or written.stat().st_mtime < (workdir / "summary.json").stat().st_mtime:
            print("writing the report", flush=True)
            page.write_report(workdir)
    except Exception as error:
        print(
            f"warning: the run is finished and saved, but not its report ({type(error).__name__}: {error});"
            f" try again with: python main.py --mode=report --workdir={workdir}",
            file=sys.stderr,
        )


def write_report(workdir: Path, split_name: str, checkpoint: Which, raw: bool) -> int:
    """Writes `report/` with its `index.html`, measured on a split."""
    from report import page

    print(f"written: {page.write_report(workdir, split_name, checkpoint, raw)}")
    return 0


def lr_find(config: ConfigDict, workdir: Path) -> int:
    """Runs a learning rate range test, writes its curve to `lr_find.json` and `.png`, prints a suggestion."""
    from lr_find import find_learning_rate, smooth
    from report import figures

    found = find_learning_rate(config)
    rates, losses = np.array(found["learning_rates"]), np.array(found["losses"])
    marks = {name: found[name] for name in ("suggestion", "lowest") if found[name]}
    write_json(workdir / "lr_find.json", found)
    if len(losses):
        figure = figures.range_test(rates, losses, smooth(losses), marks)
        write_result(workdir / "lr_find.png", figures.encode_figure(figure))
    else:
        (workdir / "lr_find.png").unlink(missing_ok=True)
    if marks:
        print(
            f"suggestion: --config.optimizer.learning_rate={marks['suggestion']:.2g}"
            f" (the loss is lowest at {marks['lowest']:.2g})"
        )
    else:
        print("no suggestion: the loss did not fall at any learning rate")
    print(f"written: {workdir / 'lr_find.json'}{' and .png' if len(losses) else ''}")
    return 0


def audit(config: ConfigDict, workdir: Path, as_json: bool) -> int:
    """Looks for duplicates, leaks and conflicting labels in the data; writes `audit.json` and a picture."""
    splits, class_names = _load_splits(config)
    found = audit_data(splits, class_names)
    write_json(workdir / "audit.json", found)
    if picture := report.draw_pairs(splits, found["pairs"]):
        report.write_picture(picture, workdir / "audit_pairs.png")
    else:
        (workdir / "audit_pairs.png").unlink(missing_ok=True)
    if as_json:
        print(json.dumps(found))
        return 0
    print(report.format_audit(found))
    print(f"\nwritten: {workdir / 'audit.json'}" + (" and audit_pairs.png" if picture else ""))
    return 0


def _load_splits(config: ConfigDict) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The splits of `config.data` by name, val only where some images are held out, and the classes."""
    dataset = datasets.load(config.data)
    train_split, val_split = datasets.train_val_split(dataset.train, config.data)
    splits = {"train": train_split, "val": val_split, "test": dataset.test}
    return {name: split for name, split in splits.items() if split is not None}, dataset.class_names


def evaluate(
    workdir: Path,
    split_name: str,
    corruptions: str | None,
    checkpoint: Which,
    raw: bool,
    as_json: bool,
    other_data: ConfigDict | None = None,
) -> int:
    """Evaluates a checkpoint on a split, prints the report and writes it to `eval_<split>.json`.

    `corruptions`, standard or extra, asks for the accuracy under these instead; its file's name ends so.
    `other_data`, the `data` part of a config, is measured on instead of the run's own, and named in the file.
    """
    runs = load_runs(workdir, checkpoint, raw, other_data)
    run = runs[0]
    if other_data is not None and split_name != "test" and _saw_rendered_hands(run.config, other_data):
        raise UserError(
            f"--split={split_name}: the run was trained on rendered hands, perhaps on these; expected"
            " --split=test, which are other people's"
        )
    measured = {"split": split_name, **run.identity}
    name = split_name
    if other_data is not None:
        measured["data"] = other_data.to_dict() | settings.preparation(run.config.data)
        name = f"{other_data.name}_{split_name}"
    if corruptions:
        reports = [evaluate_corruptions(each.predict, run.split(split_name), corruptions) for each in runs]
        measured |= by_seed(run.config.seeds, reports) if run.config.seeds else reports[0]
        file = workdir / f"eval_{name}_{corruptions}_corruptions.json"
    else:
        measured |= report_seeds(runs, split_name)[1] if run.config.seeds else run.report(split_name)[1]
        file = workdir / f"eval_{name}.json"
    if as_json:
        print(json.dumps(measured))
    else:
        of_data = f" of {other_data.name}" if other_data is not None else ""
        print(f"{split_name} split{of_data}, step {run.step}, {run.kind} weights")
        print(format_corruptions(measured) if corruptions else format_report(measured))
    write_json(file, measured)
    if not as_json:
        print(f"\nwritten: {file}")
    return 0


def _saw_rendered_hands(config: ConfigDict, other_data: ConfigDict) -> bool:
    return other_data.name == "rendered" and (config.data.name == "rendered" or config.data.rendered_size > 0)


def load_classifier(
    workdir: Path, weights: str | None, config: ConfigDict | None, checkpoint: Which, raw: bool
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier of the file `weights`, else of the run in `workdir`, and what tells it from others.

    `config` has the image size, crop, precision and settings of prediction to use instead of those that come
    with a file.
    """
    if weights:
        return load_pretrained(weights, config), {"weights": weights}
    trained = load_trained(workdir, checkpoint, raw)
    source = {"workdir": str(workdir), "step": trained[0].step, "weights": trained[0].kind}
    return join(trained), source


def evaluate_folder(
    classifier: Classifier,
    source: dict[str, Any],
    folder: Path,
    crops: int,
    workdir: Path | None,
    as_json: bool,
) -> int:
    """Evaluates on a folder that has one for each class, prints top-1 and top-5, and writes them as JSON.

    The file is `eval_folder.json` or, of ten crops, `eval_folder_10_crops.json` in `workdir`; without one
    they are only printed. Returns 2 if an image could not be read; the others are measured.
    """
    classifier.check_head()
    labels = labelled_images(folder, classifier.class_names)
    refused = Refused()

    def crops_of(file: Path) -> np.ndarray:
        return classifier.prepare(file)[None] if crops == 1 else classifier.prepare_ten_crops(file)

    files = tqdm(labels, unit="image", disable=None, leave=False)
    batches = ((names, np.stack(images)) for names, images in _prepared_batches(files, crops_of, refused))
    measured = evaluate_crops(classifier, batches, labels)
    if not measured["images"]:
        raise UserError(f"{folder}: none of its {len(labels)} images can be read; expected some that can")
    measured = {
        "folder": _printable(folder),
        **source,
        "image_size": classifier.image_size,
        "crop": classifier.crop,
        "unreadable": len(labels) - measured["images"],
        **measured,
    }
    if as_json:
        print(json.dumps(measured))
    else:
        print(f"{measured['folder']}: {measured['images']} images, {len(set(labels.values()))} classes")
        print(f"\n{format_crops(measured)}")
    if workdir is not None:
        file = workdir / f"eval_folder{'' if crops == 1 else f'_{crops}_crops'}.json"
        write_json(file, measured)
        if not as_json:
            print(f"\nwritten: {file}")
    return refused.exit_code


def predict(classifier: Classifier, paths: Sequence[str], as_json: bool) -> int:
    """Classifies image files and folders of them; 2 if any could not be read, the others are answered."""
    refused = Refused()
    predictions = (
        prediction
        for files, images in _prepared_batches(_files(paths, refused), classifier.prepare, refused)
        for prediction in classifier.predict_prepared(list(map(_printable, files)), images)
    )
    many = len(classifier.class_names) > report.CLASSES_IN_COLUMNS
    if as_json:
        for prediction in predictions:
            top = {"top": [guess._asdict() for guess in prediction.top()]} if many else {}
            print(json.dumps(prediction._asdict() | top), flush=True)
    elif many:
        if guesses := [(prediction.path, prediction.top()) for prediction in predictions]:
            print(report.format_guesses(guesses))
    elif rows := list(predictions):
        print(report.format_predictions(rows, classifier.class_names))
    return refused.exit_code


def features(classifier: Classifier, workdir: Path, paths: Sequence[str], layer: str, pool: Pool) -> int:
    """Writes features of image files and folders to `features_<layer>.npz`; 2 if any could not be read."""
    classifier.check_layer(layer, pool)
    refused = Refused()
    file = workdir / f"features_{layer}.npz"
    with FeaturesWriter(file) as writer:
        for files, images in _prepared_batches(_files(paths, refused), classifier.prepare, refused):
            writer.write(list(map(_printable, files)), classifier.features(np.stack(images), layer, pool))
    print(f"written: {file} ({len(writer.paths)} images)")
    return refused.exit_code


def probe(config: ConfigDict | None, workdir: Path, checkpoint: Which, raw: bool) -> int:
    """Measures k-NN and a linear probe on each stage's features; writes `probe.json` and a plot of it.

    Without a `config`, the network and the data are those of the run in `workdir`; else the network is that
    of `config.init_from`, and the data are those of `config`.
    """
    from probe import format_probe, layers_of, probe_layers
    from report import figures

    own_head = config is None
    if config is None:
        run, *others = load_runs(workdir, checkpoint, raw)
        if others:
            raise UserError(
                f"--workdir={workdir}: holds {1 + len(others)} seeds, and features are those of one; name the"
                f" folder of one, such as --workdir={settings.seed_workdirs(run.config, workdir)[0]}"
            )
        config, splits, told = run.config, run.splits, {"step": run.step, "weights": run.kind}
        network, weights, class_names = run.network, run.weights, run.class_names
    elif config.init_from:
        pretrained = read_pretrained(config.init_from)
        config = adopt(config, pretrained)
        check_image_size(config.data.image_size)
        splits, class_names = _load_splits(config)
        told = {"weights": config.init_from}
        network = Network(config, len(class_names))
        weights = initial_weights(config, pretrained, len(class_names))
    else:
        raise UserError(
            "config.init_from is empty: with --config, --mode=probe takes the network from there; expected a"
            " file of weights or the workdir of a run, or no --config for the run in --workdir"
        )
    classifier = Classifier(network, weights, class_names, config.data.image_size)
    measured = probe_layers(classifier, layers_of(config), splits, own_head)
    write_json(workdir / "probe.json", told | measured)
    write_result(workdir / "probe.png", figures.encode_figure(figures.probe(measured)))
    print(format_probe(measured))
    print(f"\nwritten: {workdir / 'probe.json'} and .png")
    return 0


class Refused:
    """Prints what is wrong with an image when called, and remembers that there was one."""

    exit_code = 0

    def __call__(self, error: UserError) -> None:
        self.exit_code = 2
        print(f"error: {error}", file=sys.stderr, flush=True)


def _prepared_batches(
    files: Iterable[Path], prepare: Callable[[Path], np.ndarray], refuse: Callable[[UserError], None]
) -> Iterator[tuple[list[Path], list[np.ndarray]]]:
    """Yields files and what `prepare` makes of them in their order, never holding more than a batch."""
    readable, images = [], []
    for file in files:
        try:
            images.append(prepare(file))
        except UserError as error:
            refuse(error)
            continue
        readable.append(file)
        if len(images) == BATCH_SIZE:
            yield readable, images
            readable, images = [], []
    if images:
        yield readable, images


def _printable(file: Path) -> str:
    """The path without bytes that are not UTF-8, which cannot be printed."""
    return os.fsencode(file).decode(errors="replace")


def _files(paths: Sequence[str], refuse: Callable[[UserError], None]) -> Iterator[Path]:
    for path in paths:
        try:
            yield from find_images([path])
        except UserError as error:
            refuse(error)


def export(workdir: Path, format: ExportFormat, checkpoint: Which, raw: bool) -> int:
    """Writes the run's weights for another framework into `export/` of its workdir."""
    config, class_names = settings.load(workdir)
    if config.seeds:
        raise UserError(
            f"--workdir={workdir}: holds {len(config.seeds)} seeds, and export writes the weights of one;"
            f" name one of them, such as --workdir={settings.seed_workdirs(config, workdir)[0]}"
        )
    (trained,) = load_trained(workdir, checkpoint, raw)
    weights = trained.classifier.weights
    print(f"written: {export_weights(config, weights, class_names, format, workdir / 'export')}")
    print(f"its input: {describe_input(config, format)}")
    return 0


def summary(config: ConfigDict, num_classes: int, of_run: bool) -> int:
    """Prints the table of the network's layers; one `of_run` took up what is in its `init_from` long ago."""
    if config.init_from and not of_run:
        config = adopt(config, read_pretrained(config.init_from))
    check_image_size(config.data.image_size)
    print(report.format_layers(summarize(config, num_classes)))
    return 0


def show_batch(config: ConfigDict, workdir: Path) -> int:
    """Draws a batch, augmented as at the end of training, into `show_batch.png`."""
    check_image_size(config.data.image_size)
    dataset = datasets.load(config.data)
    train_split, _ = datasets.train_val_split(dataset.train, config.data)
    images, labels = first_training_batch(train_split, config)
    captions = [dataset.class_names[label] for label in labels[:BATCH_SHOWN]]
    file = workdir / PICTURE_FILE
    report.write_picture(report.draw_grid(images[:BATCH_SHOWN], captions), file)
    print(f"written: {file}")
    return 0
