"""`--mode=eval`: evaluates a run on its data, under corruptions or on other data, or weights on a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

from modes.flags import (
    CHECKPOINT,
    FIELDS_OF_MACHINE,
    FIELDS_OVER_WEIGHTS,
    JSON,
    RAW,
    SPLIT,
    WEIGHTS,
    Command,
    Flag,
    Mode,
    refuse_config,
    refuse_flag,
    refuse_run_beside_weights,
    refuse_weights_and_config,
    require_workdir,
)
from modes.tables import table
from resnet.errors import UserError

if TYPE_CHECKING:
    from evaluation.trained_run import TrainedRun

CLASSES_PRINTED = 20  # with more of them, tables show those that stand out
FIELDS_OF_TRAINING = (  # fields of the data that only training uses
    "data.store_size",
    "data.sampling",
    "data.loader_processes",
    "data.rendered_size",
    "data.rendered_share",
    "data.rendered_share_at_start",
)

CORRUPTIONS = Flag("corruptions", "Evaluate on corrupted images.", None, ("standard", "extra"))
CROPS = Flag(
    "crops",
    "The crops of a picture to average over, for folders.",
    "1",
    ("1", "10"),
    hint=" on a folder of images",
)


def check(command: Command) -> None:
    """Checks that there is something to evaluate, and that every flag is of use for it."""
    on_folder, from_file = bool(command.arguments), bool(command.weights_file)
    if len(command.arguments) > 1:
        raise UserError(f"--mode=eval: found {len(command.arguments)} folders of images; expected one")
    if from_file and not on_folder:
        raise UserError(
            "--mode=eval needs images: name the folder that has one for each class after the flags"
        )
    refuse_weights_and_config(command)
    if on_folder and not from_file:
        refuse_config(command, ", or name a file of weights by --config.init_from")
    if from_file:
        refuse_run_beside_weights(command)
        _check_changes_prediction_alone(command)
    else:
        require_workdir(command)
        _check_changes_data_alone(command)
    if on_folder:
        refuse_flag(command, "split", "a folder of images is measured whole")
        refuse_flag(command, "corruptions", "is for the images of a data set, not for those of a folder")
    else:
        refuse_flag(command, "crops", "is for --mode=eval on a folder of images, named after the flags")


def _check_changes_data_alone(command: Command) -> None:
    """Checks that fields on the command line are of the images, as all else comes from the run."""
    from resnet.preprocessing import PREPARATION

    if command.config is None:
        return
    fields_of_network = {f"data.{name}" for name in PREPARATION if name != "image_size"}
    for name in command.config_changes:
        if name in FIELDS_OF_TRAINING:
            raise UserError(f"--config.{name}: is for training, and changes nothing here; leave it out")
        is_of_data = name.startswith("data.") and name not in fields_of_network
        if not is_of_data and not name.startswith(FIELDS_OF_MACHINE):
            raise UserError(
                f"--config.{name}: --mode=eval takes the data of --config, and all else from the run,"
                " how images are prepared included; leave it out"
            )


def _check_changes_prediction_alone(command: Command) -> None:
    """Checks that fields on the command line are of use for weights in a file."""
    known = (*FIELDS_OVER_WEIGHTS, "init_from")
    for name in command.config_changes if command.config is not None else ():
        if name not in known and not name.startswith(FIELDS_OF_MACHINE):
            raise UserError(
                f"--config.{name}: --mode=eval takes {', '.join(FIELDS_OVER_WEIGHTS)} of --config, and all"
                " else from the file of weights; leave it out"
            )


def run(command: Command) -> int:
    """Evaluates, prints tables, and writes the results as JSON into the workdir."""
    if command.arguments:
        return evaluate_folder(command)
    return evaluate_run(
        command.run_folder,
        command["split"],
        corruptions=command["corruptions"],
        checkpoint=command["checkpoint"],
        raw=command["raw"],
        as_json=command["json"],
        other_data=command.config.data if command.config is not None else None,
    )


def evaluate_run(
    workdir: Path,
    split: str | None,
    *,
    corruptions: str | None = None,
    checkpoint: Any = "best",
    raw: bool = False,
    as_json: bool = False,
    other_data: ConfigDict | None = None,
) -> int:
    """Evaluates the run in `workdir` on a split, prints the report and writes it to `eval_<split>.json`.

    `corruptions`, standard or extra, measures accuracy under corruptions instead; they are in the name of
    the file. `other_data`, the `data` part of a config, takes the place of the run's own data, and its name
    is in the name of the file. Without a split it is the run's `main_split`.
    """
    import datasets
    from evaluation.trained_run import load_runs
    from resnet.files import write_json

    runs = load_runs(workdir, checkpoint, raw, other_data)
    first = runs[0]
    split = split or first.main_split
    result: dict[str, Any] = {"split": split, **first.identity}
    name = split
    if first.other_data is not None:
        _refuse_hands_that_were_trained_on(split, first.config, first.other_data)
        _refuse_files_that_were_trained_on(split, first, workdir)
        result["data"] = first.other_data.to_dict()
        name = f"{datasets.display_name(first.other_data)}_{split}"
    result |= _evaluate_corruptions(runs, split, corruptions) if corruptions else _evaluate(runs, split)
    file = workdir / f"eval_{name}{f'_{corruptions}_corruptions' if corruptions else ''}.json"
    if as_json:
        print(json.dumps(result))
    else:
        source = f" of {datasets.display_name(other_data)}" if other_data is not None else ""
        print(f"{split} split{source}, step {first.step}, {first.kind} weights")
        print(format_corruptions(result) if corruptions else format_report(result))
    write_json(file, result)
    if not as_json:
        print(f"\nwritten: {file}")
    return 0


def _refuse_hands_that_were_trained_on(split: str, config: ConfigDict, other_data: ConfigDict) -> None:
    saw_rendered_hands = config.data.name == "rendered" or config.data.rendered_size > 0
    if split != "test" and other_data.name == "rendered" and saw_rendered_hands:
        raise UserError(
            f"--split={split}: the run was trained on rendered hands, perhaps on these; expected"
            " --split=test, which are other people's"
        )


def _refuse_files_that_were_trained_on(split: str, run: "TrainedRun", workdir: Path) -> None:
    from evaluation.trained_run import files_trained_on
    from resnet.files import printable

    if files := files_trained_on(run, split, workdir):
        raise UserError(
            f"--split={split}: the run was trained on {len(files):,} of the {len(run.split(split).labels):,}"
            f" images, such as {printable(files[0])}; expected others: put new images into a folder of their"
            " own, or leave --config out for those that the run held out"
        )


def _evaluate(runs: Sequence["TrainedRun"], split: str) -> dict[str, Any]:
    from evaluation.trained_run import report_seeds

    if runs[0].config.seeds:
        return report_seeds(runs, split)[1]
    return runs[0].report(split)[1]


def _evaluate_corruptions(runs: Sequence["TrainedRun"], split: str, group: str) -> dict[str, Any]:
    from evaluation.corruptions import evaluate_corruptions
    from workdir.statistics import by_seed

    results = [evaluate_corruptions(run.predict, run.split(split), group) for run in runs]
    return by_seed(runs[0].config.seeds, results) if runs[0].config.seeds else results[0]


def evaluate_folder(command: Command) -> int:
    """Evaluates on a folder that has a folder for each class; prints top-1 and top-5 and writes them as JSON.

    Without a workdir, the result is only printed. Returns 2 if an image could not be read; the others count.
    """
    from tqdm import tqdm

    from evaluation.folder import evaluate_crops, labelled_images
    from evaluation.picture_files import UnreadableFiles, read_in_batches
    from resnet.files import local_path, printable

    folder, crops = Path(local_path(command.arguments[0])), int(command["crops"])
    classifier, source = command.load_classifier()
    classifier.check_head()
    if crops > 1 and classifier.fit != "crop":
        raise UserError(
            f"--crops={crops}: this network takes pictures with fit={classifier.fit}, and crops need"
            " fit=crop; leave it out"
        )
    unreadable = UnreadableFiles()
    labels = labelled_images(folder, classifier.class_names, unreadable)

    def crops_of(file: Path) -> np.ndarray:
        return classifier.prepare(file)[None] if crops == 1 else classifier.prepare_ten_crops(file)

    files = tqdm(labels, unit="image", disable=None, leave=False)
    batches = ((names, np.stack(images)) for names, images in read_in_batches(files, crops_of, unreadable))
    scores = evaluate_crops(classifier, batches, labels)
    if not scores["images"]:
        raise UserError(f"{folder}: none of its {len(labels)} images can be read; expected some that can")
    result = {
        "folder": printable(folder),
        **source,
        "image_size": classifier.image_size,
        "fit": classifier.fit,
        "crop": classifier.crop,
        "resample": classifier.resample,
        "unreadable": len(labels) - scores["images"],
        **scores,
    }
    if command["json"]:
        print(json.dumps(result))
    else:
        classes = len(set(labels.values()))
        print(f"{result['folder']}: {result['images']} images, {classes} classes\n\n{format_crops(result)}")
    if command.workdir is not None:
        _write_folder_result(command, result)
    return unreadable.exit_code


def _write_folder_result(command: Command, result: dict[str, Any]) -> None:
    """Writes `eval_folder.json` into the workdir, or `eval_folder_10_crops.json` with ten crops."""
    from resnet.files import write_json

    suffix = "" if command["crops"] == "1" else f"_{command['crops']}_crops"
    file = command.run_folder / f"eval_folder{suffix}.json"
    write_json(file, result)
    if not command["json"]:
        print(f"\nwritten: {file}")


def format_report(report: dict[str, Any]) -> str:
    """Returns the tables of a `full_report`, or of the report on several seeds."""
    from evaluation.scores import seed_table

    if "seeds" in report:
        headers, rows = seed_table(report)
        text = tabulate(rows, headers, disable_numparse=True)
        return f"{text}\n\nensemble: {format_report(report['ensemble'])}"
    head = [
        f"accuracy {report['accuracy']:.4f}   loss {report['loss']:.4f}   images {report['images']}",
        f"balanced accuracy {report['balanced_accuracy']:.4f}",
        f"expected calibration error {report['calibration']['ece']:.4f}",
    ]
    if alone := report.get("without_twins"):
        count = f"{alone['images']} of {report['images']} images have no near duplicate in training"
        scores = f": accuracy {alone['accuracy']:.4f}   loss {alone['loss']:.4f}" if alone["images"] else ""
        head.append(f"{count}{scores}")
    return "\n\n".join(["\n".join(head), *_class_tables(report)])


def _class_tables(report: dict[str, Any]) -> list[str]:
    """Returns the scores of every class and the confusion matrix; of many classes what stands out."""
    from evaluation.scores import frequent_confusions, hardest_classes

    def score(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    def scores(rows: Sequence[dict[str, Any]]) -> str:
        texts = [
            [row["class"], str(row["images"]), score(row["precision"]), score(row["recall"])] for row in rows
        ]
        return table(texts, ["class", "images", "precision", "recall"], "lrrr")

    classes = report["classes"]
    if len(classes) > CLASSES_PRINTED:
        confusions = [(i, j, str(images)) for i, j, images in frequent_confusions(report, CLASSES_PRINTED)]
        return [
            f"the {CLASSES_PRINTED} of {len(classes)} classes with the lowest recall; the JSON has all",
            scores(hardest_classes(report, CLASSES_PRINTED)),
            table(confusions, ["true", "predicted", "images"], "llr"),
        ]
    names = [row["class"] for row in classes]
    confusion = [[name, *map(str, row)] for name, row in zip(names, report["confusion_matrix"], strict=True)]
    headers = ["true \\ predicted", *names]
    return [scores(classes), table(confusion, headers, "l" + "r" * len(names))]


def format_corruptions(result: dict[str, Any]) -> str:
    """Returns the table of the result of `evaluate_corruptions`, with the means over several seeds."""
    from workdir.statistics import format_spread

    if "seeds" in result:
        seeds = list(result["seeds"].values())
        means = {**seeds[0], **result["mean"]}
        spread = format_spread(means["mean"], result["std"]["mean"])
        return f"{spread} over {len(seeds)} seeds; everything below is a mean:\n{format_corruptions(means)}"
    accuracies = result["corruptions"]
    rows = [[name, *row, np.mean(row)] for name, row in accuracies.items()]
    rows.append(["mean", *result["by_severity"], result["mean"]])
    severities = [f"severity {i}" for i in range(1, len(result["by_severity"]) + 1)]
    head = f"accuracy {result['clean']:.4f} clean, {result['mean']:.4f} mean under corruptions"
    text = tabulate(rows, headers=["corruption", *severities, "mean"], floatfmt=".3f")
    return f"{head}   images {result['images']}\n\n{text}"


def format_crops(result: dict[str, Any]) -> str:
    """Returns the table of the result of `evaluate_crops`."""
    from evaluation.folder import TOP

    rows = [[name, *shares.values()] for name, shares in result.items() if name.endswith("-crop")]
    headers = ["", *(f"top-{k} {what}" for k in TOP for what in ("accuracy", "error"))]
    return tabulate(rows, headers=headers, floatfmt=".4f")


MODE = Mode(
    help="Evaluate a run on a split, under corruptions or on other data; or weights on a folder.",
    usage=(
        "--mode=eval --workdir=runs/signs [--split=val]",
        "--mode=eval --workdir=runs/signs --corruptions=standard",
        "--mode=eval --workdir=runs/signs --config=configs/rendered.py",
        "--mode=eval --weights=resnet50.safetensors [--crops=10] imagenet/val",
    ),
    flags=(WEIGHTS, SPLIT, CORRUPTIONS, CROPS, CHECKPOINT, RAW, JSON),
    check=check,
    run=run,
    takes="a folder",
)
