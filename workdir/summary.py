"""The `summary.json` of a run: its scores at the end, parameters, time, device and versions."""

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet.json_files import Schema, read_optional_json
from workdir.statistics import by_seed

SUMMARY_FILE = "summary.json"
SHARED = ("parameters", "device", "versions", "epochs", "steps", "prediction")  # the same for every seed
LARGEST = sys.float_info.max
SCORES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
    "required": ["loss", "accuracy"],
}
BY_SPLIT = dict.fromkeys(("train", "val", "test"), SCORES)
RESULTS: Schema = {
    "type": "object",
    "properties": {
        **BY_SPLIT,
        "ema": {"type": "object", "properties": BY_SPLIT},
        "seconds": {"type": "number"},
        "images_per_second": {"type": "number"},
    },
    "required": ["seconds", "images_per_second"],
}
ABOUT: Schema = {
    "type": "object",
    "properties": {
        "parameters": {"type": "integer"},
        "device": {"type": "string"},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "epochs": {"type": "integer"},
        "steps": {"type": "integer"},
        "prediction": {"type": "string"},
    },
    "required": ["parameters", "device", "versions", "steps"],
}
OF_A_SEED: Schema = {"allOf": [ABOUT, RESULTS]}
OF_SEEDS: Schema = {
    **ABOUT,
    "properties": {
        **ABOUT["properties"],
        "mean": RESULTS,
        "seeds": {"type": "object", "additionalProperties": OF_A_SEED},
    },
    "required": [*ABOUT["required"], "mean"],
}
SUMMARY_SCHEMA: Schema = {"if": {"required": ["seeds"]}, "then": OF_SEEDS, "else": OF_A_SEED}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def read_summary(workdir: Path) -> dict[str, Any]:
    """Returns the summary that an earlier start wrote at its end, empty if there is none.

    One that is damaged is told on stderr.
    """
    remedy = "it is left out, and made again when the training ends"
    return _with_float_scores(read_optional_json(workdir / SUMMARY_FILE, SUMMARY_SCHEMA, remedy) or {})


def _with_float_scores(part: Any) -> Any:
    """Returns a part of a summary with 1.0 where an edited file has 1: only floats have a mean over seeds."""
    if not isinstance(part, dict):
        return part
    return {
        name: {metric: float(score) for metric, score in value.items()}
        if name in BY_SPLIT
        else _with_float_scores(value)
        for name, value in part.items()
    }


def score_not_finite(summary: Mapping[str, Any]) -> str | None:
    """Names a score of a summary that is not finite, such as "train loss nan", or returns None."""
    for part in (summary, summary.get("ema", {})):
        for split in BY_SPLIT:
            for name, score in part.get(split, {}).items():
                if not math.isfinite(score):
                    return f"{split} {name} {score}"
    return None


def make_summaries(
    scores: Mapping[str, Mapping[str, Sequence[dict[str, float]]]],
    *,
    parameters: int,
    device: str,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Returns the summary of every seed.

    `scores` are the metrics of every seed by kind of weights, `raw` and perhaps `ema`, and by split. `about`
    is what the summaries have in common.
    """
    count = len(next(iter(scores["raw"].values())))
    shared = {"parameters": parameters, "device": device, "versions": versions(), **about}
    summaries = []
    for index in range(count):
        by_kind = {
            kind: {split: metrics[index] for split, metrics in splits.items()}
            for kind, splits in scores.items()
        }
        summaries.append({**by_kind.pop("raw"), **by_kind, **shared})
    return summaries


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that training depends on."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def summarize_seeds(seeds: Sequence[int], summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the summary of several seeds: `mean`, `std`, and the summary of every seed under `seeds`."""
    return {**by_seed(seeds, summaries), **{name: summaries[0][name] for name in SHARED}}
