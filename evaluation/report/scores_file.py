"""The scores of a report as JSON, `report/scores.json`: for every seed, to be read by other programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet.files import write_json
from resnet.json_files import Schema, read_optional_json

if TYPE_CHECKING:  # It loads what evaluates, which a reader of scores does without.
    from evaluation.trained_run import TrainedRun

FOLDER = "report"
SCORES_FILE = "scores.json"
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT = {"type": "integer", "minimum": 0}
_LOSS = {"type": "number", "minimum": 0, "maximum": 1e9}
_OPTIONAL_SHARE = {"anyOf": [_SHARE, {"type": "null"}]}
OF_A_CLASS: Schema = {
    "type": "object",
    "properties": {
        "class": {"type": "string"},
        "images": _COUNT,
        "precision": _OPTIONAL_SHARE,
        "recall": _OPTIONAL_SHARE,
    },
    "required": ["class", "images", "precision", "recall"],
}
OF_A_SEED: Schema = {
    "type": "object",
    "properties": {
        "step": _COUNT,
        "accuracy": _SHARE,
        "balanced_accuracy": _SHARE,
        "loss": _LOSS,
        "images": _COUNT,
        "classes": {"type": "array", "items": OF_A_CLASS},
        "calibration": {"type": "object", "properties": {"ece": _SHARE}, "required": ["ece"]},
        "without_twins": {
            "type": "object",
            "properties": {"accuracy": _SHARE, "images": _COUNT},
            "required": ["images"],
        },
    },
    "required": ["step", "accuracy", "balanced_accuracy", "loss", "images", "classes", "calibration"],
}
SCORES_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "split": {"enum": ["train", "val", "test"]},
        "weights": {"enum": ["raw", "ema"]},
        "prediction": {"type": "string"},
        "split_sizes": {"type": "object", "additionalProperties": _COUNT},
        "seeds": {"type": "object", "additionalProperties": OF_A_SEED},
    },
    "required": ["split", "weights", "prediction", "split_sizes", "seeds"],
}


def write_scores(
    path: Path, runs: Sequence["TrainedRun"], split_name: str, report: Mapping[str, Any]
) -> None:
    """Writes the `report` on a split, which `full_report` or `report_seeds` gave, without confusion matrices.

    Raises:
        UserError: `path` cannot be written.
    """
    run = runs[0]
    numbers = run.config.seeds or (run.config.seed,)
    seeds = {}
    reports = report["seeds"].values() if run.config.seeds else [report]
    for number, member, own in zip(numbers, runs, reports, strict=True):
        # With a thousand classes, the matrix has a million lines.
        scores = {name: value for name, value in own.items() if name != "confusion_matrix"}
        seeds[str(number)] = {"step": member.step, **scores}
    about = {name: value for name, value in run.identity.items() if name != "step"}
    sizes = {name: len(split.labels) for name, split in run.splits.items()}
    write_json(path, {"split": split_name, **about, "split_sizes": sizes, "seeds": seeds})


def read_scores(path: Path) -> dict[str, Any] | None:
    """Returns what `write_scores` wrote, or None if there is nothing. Damage is reported on stderr."""
    remedy = "it is left out, and --mode=report makes it again"
    return read_optional_json(path, SCORES_SCHEMA, remedy)
