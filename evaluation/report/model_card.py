"""The model card of an export, its README.md: what was trained on what, how well it does, how it is used."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from ml_collections import ConfigDict

import datasets
from configs import rules
from evaluation.report.scores_file import FOLDER, SCORES_FILE, read_scores
from evaluation.scores import hardest_classes
from resnet.classifier import Classifier
from resnet.files import printable
from resnet.formats import hub
from resnet.formats.huggingface import has_preprocessor
from resnet.run import CONFIG_FILE, seed_workdir
from resnet.wording import first_of
from workdir import settings
from workdir.statistics import format_spread, mean_and_std
from workdir.summary import read_summary

CLASSES_SHOWN = 40
# Fields that say nothing of the weights, or where things lie on the machine of whoever trained them.
NOT_SHOWN = (
    "data.dir", "init_from", "seed", "num_epochs", "model.convolution", "steps_per_call", "compilation_cache",
    "checkpoint", "gpu",
)  # fmt: skip
SCORES = {
    "accuracy": ("accuracy",),
    "balanced accuracy": ("balanced_accuracy",),
    "cross-entropy": ("loss",),
    "expected calibration error": ("calibration", "ece"),
    "accuracy on images without a near duplicate in training": ("without_twins", "accuracy"),
}


class ExportedRun(NamedTuple):
    """A run of one seed in `workdir`, the step of its checkpoint, and the kind of weights: `raw` or `ema`."""

    workdir: Path
    step: int
    kind: str


class Measurement(NamedTuple):
    """The scores of an exported network on a split, and the scores of all seeds of its training.

    `split_sizes` are the numbers of images by split, empty if they are not known.
    """

    split: str
    scores: Mapping[str, Any]
    by_seed: Sequence[Mapping[str, Any]]
    split_sizes: Mapping[str, int]


def model_card(
    classifier: Classifier,
    source: ExportedRun | str,
    *,
    repository: str = "",
    license: str = "",
    with_onnx: bool = False,
) -> str:
    """Returns the text of the model card of `classifier`, which comes from a run or from a file of weights.

    `repository` is its name on the Hugging Face Hub, "" before it has one. `license` is an identifier of the
    Hub such as `mit`, "" if none is stated. `with_onnx` says whether `model.onnx` lies beside it.
    """
    architecture, preprocessing = classifier.network.architecture, classifier.network.preprocessing
    names = classifier.class_names
    return _render(
        title=repository.rpartition("/")[2] or f"ResNet-{architecture.depth}",
        path=f"{hub.PREFIX}{repository}" if repository else "path/to/this/folder",
        model=repository or "path/to/this/folder",
        license=license,
        with_onnx=with_onnx,
        architecture=architecture,
        preprocessing=preprocessing,
        class_count=len(names),
        class_names=first_of(names, CLASSES_SHOWN),
        has_processor=has_preprocessor(preprocessing),
        **(_facts_of_run(source) if isinstance(source, ExportedRun) else _facts_of_file(source)),
    )


def _facts_of_run(run: ExportedRun) -> dict[str, Any]:
    """Returns what the card says of a run, by the names of the template."""
    config, _ = settings.load(run.workdir)
    summary = read_summary(run.workdir)
    is_finished = summary.get("epochs") == config.num_epochs
    measurement = _measurement(run, config, summary if is_finished else {})
    starts_from_hub = hub.is_address(config.init_from)
    return {
        "run": run,
        "config": config,
        "data_set": datasets.display_name(config.data),
        "base_model": hub.parse_address(config.init_from).repository if starts_from_hub else "",
        "init_from": _public_name(config.init_from),
        "summary": summary if is_finished else {},
        "changed_fields": list(_changed_fields(config)),
        "measurement": measurement,
        "score_rows": [] if measurement is None else _score_rows(measurement),
        "class_rows": [] if measurement is None else _class_rows(measurement.scores),
    }


def _facts_of_file(weights: str) -> dict[str, Any]:
    return {"run": None, "weights": _public_name(weights)}


def _public_name(weights: str) -> str:
    """Returns the name of weights without the folder that they lie in on this machine."""
    return weights if hub.is_address(weights) else Path(weights).name


def _changed_fields(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yields the fields that differ from their defaults, and their values."""
    defaults = rules.default_fields()
    for name, value in rules.flatten(config):
        if value != defaults[name] and not name.startswith(NOT_SHOWN):
            yield name, str(value)


def _measurement(run: ExportedRun, config: ConfigDict, summary: Mapping[str, Any]) -> Measurement | None:
    """Returns how well the exported weights do, or None if nobody has measured these.

    The report knows most. The summary knows the weights after the last step alone.
    """
    group = _group_of_seeds(run.workdir, config)
    scores = read_scores((group or run.workdir) / FOLDER / SCORES_FILE)
    if scores is not None:
        own = scores["seeds"].get(str(config.seed))
        is_of_these_weights = own is not None and (own["step"], scores["weights"], scores["prediction"]) == (
            run.step,
            run.kind,
            settings.prediction(config),
        )
        if is_of_these_weights:
            by_seed = list(scores["seeds"].values())
            return Measurement(scores["split"], own, by_seed, scores["split_sizes"])
    if summary.get("steps") != run.step:
        return None
    split = next(name for name in ("test", "val", "train") if name in summary)
    summaries = [summary]
    if group is not None:
        folders = settings.seed_workdirs(settings.load(group)[0], group)
        summaries = [read_summary(folder) for folder in folders]
    by_seed = [
        (other if run.kind == "raw" else other["ema"])[split]
        for other in summaries
        if other.get("steps") == run.step
    ]
    own = (summary if run.kind == "raw" else summary["ema"])[split]
    return Measurement(split, own, by_seed, {})


def _group_of_seeds(workdir: Path, config: ConfigDict) -> Path | None:
    """Returns the workdir of the run of several seeds of which `workdir` is one, None if there is none."""
    workdir = workdir.resolve()
    group = workdir.parent
    if workdir != seed_workdir(group, config.seed) or not (group / CONFIG_FILE).is_file():
        return None
    return group if config.seed in settings.load(group)[0].seeds else None


def _score_rows(measurement: Measurement) -> list[tuple[str, str, str]]:
    """Returns rows of a score's name, its value, and mean ± std over seeds, "" for a single seed."""
    rows = []
    for name, keys in SCORES.items():
        values = [
            value for value in (_at(scores, keys) for scores in measurement.by_seed) if value is not None
        ]
        own = _at(measurement.scores, keys)
        if own is None:
            continue
        spread = mean_and_std([float(value) for value in values])
        over_seeds = format_spread(spread["mean"], spread["std"]) if len(values) > 1 else ""
        rows.append((name, f"{own:.4f}", over_seeds))
    return rows


def _at(scores: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    value: Any = scores
    for key in keys:
        value = value.get(key) if value is not None else None
    return value


def _class_rows(scores: Mapping[str, Any]) -> list[tuple[str, int, str, str]]:
    """Returns the class, images, precision and recall of each class, or of those with the lowest recall."""
    rows = scores.get("classes", [])
    if len(rows) > CLASSES_SHOWN:
        rows = hardest_classes(dict(scores), CLASSES_SHOWN)
    return [
        (
            row["class"],
            row["images"],
            *("-" if row[name] is None else f"{row[name]:.4f}" for name in ("precision", "recall")),
        )
        for row in rows
    ]


def _render(**variables: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = _as_markdown
    return environment.get_template("model_card.md").render(**variables)


def _as_markdown(text: object) -> str:
    """Returns `text` such that it stands in a cell of a table as it is, whatever a class is called."""
    return html.escape(printable(str(text)), quote=False).replace("|", "\\|").replace("`", "\\`")
