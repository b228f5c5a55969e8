"""`--mode=export`: writes the weights of a run, or of a file of weights, for another framework or the Hub."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modes.flags import (
    CHECKPOINT,
    RAW,
    WEIGHTS,
    Command,
    Flag,
    Mode,
    refuse_flag,
    require_run_or_weights_alone,
)
from modes.programs import PRECISION, WEB, check_precision, describe_check, export_smaller, write_page
from resnet.errors import UserError
from resnet.formats import EXPORT_FORMATS, PROGRAMS, hub

if TYPE_CHECKING:
    from resnet.classifier import Classifier

FORMAT = Flag("format", "The format to write.", "safetensors", (*EXPORT_FORMATS, WEB))
PUSH = Flag("push", "Push the export to this repository of the Hugging Face Hub, such as owner/name.")
LICENSE = Flag(
    "license", "The licence that the model card states, by its identifier on the Hub, such as mit."
)
LARGEST_DIFFERENCE = 0.05  # of a probability that is read again before a push: more than bfloat16 rounds


def check(command: Command) -> None:
    """Checks that there is something to export, and what can be known of a push before it."""
    require_run_or_weights_alone(command)
    if command["format"] != "huggingface":
        for name in ("push", "license"):
            refuse_flag(command, name, f"is for --format=huggingface, not for {command['format']}")
    check_precision(command)
    license = command["license"]
    if license is not None and not re.fullmatch("[a-z0-9][a-z0-9.-]*", license):
        raise UserError(f"--license={license}: expected an identifier of the Hub, such as mit or apache-2.0")
    if command["push"] is not None:
        hub.check_can_push(command["push"])


def run(command: Command) -> int:
    """Writes the network into `export/` of the workdir and describes the input that it expects."""
    from resnet.formats.export import describe_input
    from workdir import settings

    workdir, format = command.run_folder, command["format"]
    config = command.settings()
    if not command.weights_file and config.seeds:
        raise UserError(
            f"--workdir={workdir}: holds {len(config.seeds)} seeds, and export writes the weights of one;"
            f" name one of them, such as --workdir={settings.seed_workdirs(config, workdir)[0]}"
        )
    classifier, source = command.load_classifier()
    if format == WEB:
        print(f"written: {write_page(command, classifier, workdir / 'export' / WEB)}")
        print("browsers take it from a server: put the folder on a static host, or see --mode=web")
        return 0
    if format == "onnx" and command["precision"] != "float32":
        return export_smaller(command, classifier, workdir / "export")
    path = classifier.export(workdir / "export", format)
    print(f"written: {path}")
    print(f"its input: {describe_input(classifier.network.preprocessing, format)}")
    if format in PROGRAMS:
        print(describe_check(path, format, classifier))
    if format == "huggingface":
        names = _complete_folder(path, classifier, source, command)
        if command["push"] is not None:
            _push(path, names, classifier, command["push"])
    return 0


def _complete_folder(
    folder: Path, classifier: "Classifier", source: dict[str, Any], command: Command
) -> list[str]:
    """Adds the model card and, before a push, the ONNX model; returns the names of its files."""
    from evaluation.report.model_card import ExportedRun, model_card
    from resnet.files import write_result
    from resnet.formats.huggingface import has_preprocessor

    if command["push"] is not None:
        classifier.check_head()
    names = ["model.safetensors", "config.json"]
    if has_preprocessor(classifier.network.preprocessing):
        names.append("preprocessor_config.json")
    if not classifier.class_names:
        return names
    if with_onnx := command["push"] is not None and find_spec("onnx") is not None:
        names.append(classifier.export(folder, "onnx").name)
        print(describe_check(folder / names[-1], "onnx", classifier))
    is_run = not command.weights_file
    card = model_card(
        classifier,
        ExportedRun(command.run_folder, source["step"], source["weights"]) if is_run else source["weights"],
        repository=command["push"] or "",
        license=command["license"] or "",
        with_onnx=with_onnx,
    )
    write_result(folder / "README.md", card)
    print(f"its model card: {folder / 'README.md'}")
    return [*names, "README.md"]


def _push(folder: Path, names: list[str], classifier: "Classifier", repository: str) -> None:
    """Reads the exported weights back, and pushes the files `names` if the predictions are the same."""
    from resnet.formats.exported_programs import difference_on_noise
    from resnet.pretrained import load_pretrained

    # Arithmetic of its own would take a program of its own, and round otherwise.
    again = load_pretrained(folder, convolution=classifier.network.convolution)
    difference = difference_on_noise(again.probabilities, classifier)
    if difference > LARGEST_DIFFERENCE:
        raise UserError(
            f"{folder}: read again, its probabilities differ by {difference:.1e} from those of the original,"
            f" expected at most {LARGEST_DIFFERENCE}; nothing was pushed"
        )
    push = hub.push({name: folder / name for name in names}, repository, "Export of a network")
    print(f"pushed: {push.url}")
    if push.is_new_repository:
        print(
            "its repository is new, and private; to publish it, change its visibility in its settings there"
        )


MODE = Mode(
    help="Write the weights of a run or a file for another framework, or a page with the network in it.",
    usage=(
        "--mode=export --workdir=runs/signs --format=keras",
        "--mode=export --workdir=runs/signs --format=onnx --precision=int8",
        "--mode=export --workdir=runs/signs --format=web",
        "--mode=export --weights=resnet50.safetensors --workdir=exported --format=onnx",
        "--mode=export --workdir=runs/signs --format=huggingface --push=owner/name",
    ),
    flags=(WEIGHTS, FORMAT, PRECISION, PUSH, LICENSE, CHECKPOINT, RAW),
    check=check,
    run=run,
)
