"""`--mode=export`: writes the weights of a run, or of a file of weights, for another framework."""

from pathlib import Path
from typing import TYPE_CHECKING

from modes.flags import (
    CHECKPOINT,
    RAW,
    WEIGHTS,
    Command,
    Flag,
    Mode,
    require_run_or_weights_alone,
)
from resnet.errors import UserError
from resnet.formats import EXPORT_FORMATS, PROGRAMS

if TYPE_CHECKING:
    from resnet.classifier import Classifier

FORMAT = Flag("format", "The format to write.", "safetensors", EXPORT_FORMATS)


def run(command: Command) -> int:
    """Writes the weights into `export/` of the workdir and describes the input that they expect."""
    from resnet.formats.export import describe_input
    from workdir import settings

    workdir, format = command.run_folder, command["format"]
    config = command.settings()
    if not command.weights_file and config.seeds:
        raise UserError(
            f"--workdir={workdir}: holds {len(config.seeds)} seeds, and export writes the weights of one;"
            f" name one of them, such as --workdir={settings.seed_workdirs(config, workdir)[0]}"
        )
    classifier, _ = command.load_classifier()
    path = classifier.export(workdir / "export", format)
    print(f"written: {path}")
    print(f"its input: {describe_input(classifier.network.preprocessing, format)}")
    if format in PROGRAMS:
        print(_describe_check(path, format, classifier))
    return 0


def _describe_check(path: Path, format: str, classifier: "Classifier") -> str:
    from resnet.formats.exported_programs import check_program

    check = check_program(path, format, classifier)
    if check is None:
        return f"not compared with this project's answers; for that: pip install {PROGRAMS[format]}"
    return (
        f"its probabilities in {check.runtime} differ from this project's by at most {check.difference:.1e}"
    )


MODE = Mode(
    help="Write the weights of a run or a file for another framework.",
    usage=(
        "--mode=export --workdir=runs/signs --format=keras",
        "--mode=export --weights=resnet50.safetensors --workdir=exported --format=onnx",
    ),
    flags=(WEIGHTS, FORMAT, CHECKPOINT, RAW),
    check=require_run_or_weights_alone,
    run=run,
)
