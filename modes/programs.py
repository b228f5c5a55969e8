"""Networks as programs, for `export` and `web`: ONNX models in a precision, and the page around one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modes.flags import Command, Flag, refuse_flag
from resnet.errors import UserError
from resnet.formats import PRECISIONS, PROGRAMS

if TYPE_CHECKING:
    from evaluation.trained_run import TrainedRun
    from resnet.classifier import Classifier
    from resnet.formats.onnx_model import OnnxOptions

WEB = "web"  # the page with the network in it
PRECISION = Flag(
    "precision",
    "The numbers in an ONNX model: float32, float16 (half the size) or int8 (a quarter, and faster).",
    "float32",
    PRECISIONS,
)
CALIBRATION_IMAGES = 256  # of the training split, for the ranges of int8


def check_precision(command: Command) -> None:
    """Checks that the precision is of use, and that what it needs is there.

    Raises:
        UserError: the format has none, or int8 has no images for its calibration.
    """
    if command.mode_name == "export" and command["format"] not in ("onnx", WEB):
        refuse_flag(command, "precision", f"is for --format=onnx and {WEB}")
    if command["precision"] == "int8" and command.weights_file:
        raise UserError(
            "--precision=int8: is calibrated on the training images of a run, and a file of weights has none;"
            " expected a run, or float16"
        )


def write_page(command: Command, classifier: "Classifier", folder: Path) -> Path:
    """Writes the page with the network of the command into `folder` and returns the path of its index.

    Raises:
        UserError: the libraries of the page are not installed, or `folder` cannot be written.
    """
    from resnet.files import temporary_folder
    from resnet.onnx_classifier import OnnxClassifier
    from web.site import write_site

    with temporary_folder() as temporary:
        if isinstance(classifier, OnnxClassifier):
            refuse_flag(command, "precision", f"{classifier.path} has one already")
            model = classifier
        else:
            run = _load_run(command)
            notes = {} if run is None else {"no_sign": _fit_no_sign(classifier, run)}
            model = OnnxClassifier(classifier.export(temporary, "onnx", _onnx_options(command, run, **notes)))
        return write_site(folder, model, _display_name(command))


def _display_name(command: Command) -> str:
    """Returns what the page calls the network."""
    from resnet.formats import hub

    if hub.is_address(command.weights_file):
        return hub.parse_address(command.weights_file).repository.split("/")[-1]
    path = Path(command.weights_file or command.run_folder).resolve()
    return path.stem if path.is_file() else path.name


def export_smaller(command: Command, classifier: "Classifier", folder: Path) -> int:
    """Writes the ONNX model in less than float32, and prints a table of both on the data of the run."""
    run = _load_run(command)
    path = classifier.export(folder, "onnx", _onnx_options(command, run))
    print(f"written: {path}")
    print(describe_check(path, "onnx", classifier))
    if run is not None:
        print(f"\n{_compare_with_float32(path, classifier, run)}")
    return 0


def describe_check(path: Path, format: str, classifier: "Classifier") -> str:
    """Compares the program in `path` with `classifier`, and returns a sentence that says how they differ."""
    from resnet.formats.exported_programs import check_program

    check = check_program(path, format, classifier)
    if check is None:
        return f"not compared with this project's answers; for that: pip install {PROGRAMS[format]}"
    return (
        f"its probabilities in {check.runtime} differ from this project's by at most {check.difference:.1e}"
    )


def _load_run(command: Command) -> "TrainedRun | None":
    """Returns the run of the command with its data; None if there is a file of weights in its place."""
    from evaluation.trained_run import load_runs

    if command.weights_file:
        return None
    return load_runs(command.run_folder, command["checkpoint"], command["raw"])[0]


def _onnx_options(command: Command, run: "TrainedRun | None", **notes: Any) -> "OnnxOptions":
    """Returns how to write the ONNX model: in the precision of the command, with what is known of `run`."""
    from evaluation.exported import evenly_spaced
    from resnet.formats.onnx_model import OnnxOptions

    precision = command["precision"]
    if run is None:
        return OnnxOptions(precision, notes={"precision": precision, **notes})
    calibration = evenly_spaced(run.splits["train"], CALIBRATION_IMAGES).images
    return OnnxOptions(
        precision, calibration, {"precision": precision, "trained_on": _trained_on(run), **notes}
    )


def _trained_on(run: "TrainedRun") -> str:
    """Returns a sentence that says what the network of `run` is and what it saw."""
    import datasets
    from input_pipeline import steps_per_epoch

    config, images = run.config, len(run.splits["train"].labels)
    epochs = run.step / steps_per_epoch(run.splits["train"], config.batch_size)
    rendered = config.data.name == "rendered"
    what = "rendered hands" if rendered else f"images of {datasets.display_name(config.data)}"
    more = f" and {config.data.rendered_size:,} rendered hands" if config.data.rendered_size else ""
    return f"A ResNet-{config.model.depth}, trained for {epochs:.3g} epochs on {images:,} {what}{more}."


def _fit_no_sign(classifier: "Classifier", run: "TrainedRun") -> dict[str, float]:
    """Returns the threshold for 'no sign', and prints its error rates."""
    from evaluation.no_sign import fit_on_splits

    no_sign, description = fit_on_splits(classifier, run.splits)
    print(description)
    return no_sign._asdict()


def _compare_with_float32(path: Path, classifier: "Classifier", run: "TrainedRun") -> str:
    """Returns a table of the model in `path` beside the same network in float32."""
    from evaluation.exported import compare_models
    from modes.tables import table
    from resnet.files import temporary_folder
    from resnet.onnx_classifier import OnnxClassifier

    smaller = OnnxClassifier(path)
    with temporary_folder() as folder:
        whole = OnnxClassifier(classifier.export(folder, "onnx"))
        models = {"float32": whole, str(smaller.notes["precision"]): smaller}
        result = compare_models(models, run.split(run.main_split))
    headers = [
        "",
        "MB",
        "images/s",
        f"accuracy, {result['images']:,} {run.main_split} images",
        f"corrupted, {result['corrupted_images']:,} images",
    ]
    rows = [
        (name, f"{mb:.1f}", f"{speed:.1f}", f"{accuracy:.4f}", f"{corrupted:.4f}")
        for name, mb, speed, accuracy, corrupted in (row.values() for row in result["models"])
    ]
    return table(rows, headers, "lrrrr")
