"""The report of a run: a page that stands alone, `report/index.html` in its workdir, and its pictures."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

import datasets
from configs import rules
from datasets.types import Split
from evaluation import corruptions
from evaluation.report import figures
from evaluation.report.pictures import draw_grid, encode_picture
from evaluation.report.scores_file import FOLDER, SCORES_FILE, write_scores
from evaluation.scores import frequent_confusions, hardest_classes, log_softmax, seed_table
from evaluation.trained_run import TrainedRun, load_runs, report_seeds
from input_pipeline import first_training_batch
from resnet.checkpoint import Which
from resnet.files import write_result
from resnet.grad_cam import grad_cam
from resnet.json_files import read_optional_json
from workdir import settings
from workdir.metrics import read_metrics
from workdir.statistics import format_spread
from workdir.summary import read_summary

PAGE = "index.html"
NOT_IN_EVERY_REPORT = ("mistakes.png", "least_confident_hits.png", "corruptions.png")
IMAGES_SHOWN = 16  # mistakes, hits
BATCH_SHOWN = 32
CLASSES_SHOWN = 40  # with more of them, tables show those that stand out
EXPLAINED = 12  # images with Grad-CAM
STAGES_EXPLAINED = 3  # by Grad-CAM, from the last one, whose map is 2x2 for an image of 64x64


class Table(NamedTuple):
    """Rows of text under headers. Rows whose index is in `marked` stand out."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


class Section(NamedTuple):
    """A part of the page: a heading, a sentence about what it shows, pictures by file name, tables.

    `captions` are what stands below the pictures of a grid, as text: the font in it lacks some scripts.
    """

    title: str
    text: str
    pictures: dict[str, bytes] = {}  # noqa: RUF012
    tables: Sequence[Table] = ()
    captions: Sequence[str] = ()


def write_report(
    workdir: Path, split_name: str | None = None, checkpoint: Which = "best", raw: bool = False
) -> Path:
    """Evaluates a run on a split and writes `report/` into its workdir; returns the path of the page.

    Without a name it is the run's `main_split`. The scores are beside the page as JSON.

    Raises:
        UserError: there is no trained run, its data cannot be read, or the report cannot be written.
    """
    runs = load_runs(workdir, checkpoint, raw)
    run = runs[0]
    split_name = split_name or run.main_split
    logits, report = report_seeds(runs, split_name) if run.config.seeds else run.report(split_name)
    histories = [read_metrics(folder) for folder in settings.seed_workdirs(run.config, workdir)]
    summary = read_summary(workdir)
    if any(history and history[-1]["step"] > summary.get("steps", 0) for history in histories):
        summary = {}  # It is about an earlier end: the run has gone on since.
    examples = _Examples(run, run.split(split_name), logits)
    sections = [
        _curves(histories, summary, run),
        *_seeds(report),
        *_classes(report.get("ensemble", report)),
        *examples.grids(),
        examples.explanations(),
        *_corruptions(run, workdir, split_name),
        _batch(run),
        _course(histories),
        *_settings(run, summary),
    ]
    page = _render(
        title=workdir.resolve().name,
        subtitle=_subtitle(run, split_name),
        facts=_facts(report, summary),
        sections=sections,
    )
    write_scores(workdir / FOLDER / SCORES_FILE, runs, split_name, report)
    return _write(workdir / FOLDER, page, sections)


def _subtitle(run: TrainedRun, split_name: str) -> str:
    data_set = datasets.display_name(run.config.data)
    return f"{data_set}, {split_name} split, step {run.step}, {_weights_name(run.kind)}"


def _render(**variables: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("page.html").render(**variables)


def _write(folder: Path, page: str, sections: Sequence[Section]) -> Path:
    """Writes the page and its pictures, and removes pictures that it no longer has."""
    pictures = {name: content for section in sections for name, content in section.pictures.items()}
    for name, content in pictures.items():
        write_result(folder / name, content)
    write_result(folder / PAGE, page)
    for name in NOT_IN_EVERY_REPORT:
        if name not in pictures:  # A run may no longer make mistakes, for example.
            (folder / name).unlink(missing_ok=True)
    return folder / PAGE


def _facts(report: dict[str, Any], summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns names and numbers for the head of the page; with several seeds, times are those of one."""
    facts, seeds = [], report.get("seeds", {})
    if seeds:
        for name, score in (("accuracy", "accuracy"), ("cross-entropy", "loss")):
            spread = format_spread(report["mean"][score], report["std"][score])
            facts.append((f"{name}, {len(seeds)} seeds", spread))
        report = report["ensemble"]
    suffix = ", ensemble" if seeds else ""
    facts += [
        (f"accuracy{suffix}", f"{report['accuracy']:.4f}"),
        (f"balanced accuracy{suffix}", f"{report['balanced_accuracy']:.4f}"),
        (f"cross-entropy{suffix}", f"{report['loss']:.4f}"),
        (f"calibration error{suffix}", f"{report['calibration']['ece']:.4f}"),
        ("images", f"{report['images']:,}"),
    ]
    alone = report.get("without_twins", {})
    if alone.get("images"):
        name = f"accuracy{suffix}, {alone['images']:,} without a near twin"
        facts.append((name, f"{alone['accuracy']:.4f}"))
    if summary:
        seed = summary.get("mean", summary)
        facts += [
            ("parameters", f"{summary['parameters']:,}"),
            (f"training{', of one seed' if seeds else ''}", f"{seed['seconds'] / 60:,.1f} min"),
            ("images per second", f"{seed['images_per_second']:,.1f}"),
        ]
    return facts


def _curves(histories: Sequence[figures.History], summary: dict[str, Any], run: TrainedRun) -> Section:
    summary = summary.get("mean", summary)
    final = {"test, raw weights": summary.get("test"), "test, average": summary.get("ema", {}).get("test")}
    final = {name: scores for name, scores in final.items() if scores}
    text = (
        "On training images as the steps saw them: augmented, with raw weights"
        f"{', and with label smoothing in the loss' if run.config.label_smoothing else ''}."
        " On validation images, if any were held out, without augmentation"
        f"{', with the raw weights and with their moving average' if run.config.ema_decay else ''}."
        f"{' Means over the seeds; bands are one standard deviation wide each way.' * (len(histories) > 1)}"
    )
    picture = figures.encode_figure(figures.learning_curves(histories, final))
    return Section("Learning curves", text, {"learning_curves.png": picture})


def _seeds(report: dict[str, Any]) -> list[Section]:
    """Returns the scores of every seed in the result of `report_seeds`; nothing for a single seed."""
    if "seeds" not in report:
        return []
    headers, rows = seed_table(report)
    text = (
        "The same training with different initial weights, another order of the images and other random"
        " augmentation. The ensemble averages their probabilities; the sections below are about the ensemble."
    )
    return [Section("Seeds", text, tables=[Table(headers, rows, frozenset({len(rows) - 2}))])]


def _classes(report: dict[str, Any]) -> list[Section]:
    """Returns the sections about classes and calibration; of many classes, those that stand out."""
    classes, matrix = report["classes"], report["confusion_matrix"]
    text = "How often a class is mistaken for another; precision and recall of every class."
    tables, shown = [], classes
    if len(classes) > CLASSES_SHOWN:
        shown = hardest_classes(report, CLASSES_SHOWN)
        text = (
            f"How often a class is mistaken for another; the {len(shown)} of {len(classes):,} classes with"
            " the lowest recall, and the most frequent mistakes. `--mode=eval` writes those of all classes."
        )
        confusions = [(*names, str(count)) for *names, count in frequent_confusions(report, CLASSES_SHOWN)]
        tables.append(Table(["true class", "predicted", "images"], confusions))
    rows = [
        [
            row["class"],
            str(row["images"]),
            *("-" if row[n] is None else f"{row[n]:.4f}" for n in ("precision", "recall")),
        ]
        for row in shown
    ]
    names = [row["class"] for row in classes]
    confusion = figures.encode_figure(figures.confusion_matrix(matrix, names))
    diagram = figures.encode_figure(figures.reliability(report["calibration"]))
    return [
        Section(
            "Classes",
            text,
            {"confusion_matrix.png": confusion},
            [Table(["class", "images", "precision", "recall"], rows), *tables],
        ),
        Section(
            "Calibration",
            "Whether a probability can be believed: of the images predicted with about 0.9, about 0.9 should"
            " be right. The expected calibration error (ECE) is the mean gap (Guo et al. 2017).",
            {"reliability.png": diagram},
        ),
    ]


class _Examples:
    """Images of a split with the network's answers: mistakes, close calls, and where the network looks."""

    def __init__(self, run: TrainedRun, split: Split, logits: np.ndarray) -> None:
        self._run, self._split = run, split
        self._probabilities = np.exp(log_softmax(logits))
        self._predicted = self._probabilities.argmax(-1)
        self._confidence = self._probabilities.max(-1)
        hits = np.flatnonzero(self._predicted == split.labels)
        mistakes = np.flatnonzero(self._predicted != split.labels)
        self._hits = hits[self._confidence[hits].argsort()]  # least confident first
        self._mistakes = mistakes[(-self._confidence[mistakes]).argsort()]  # most confident first

    def grids(self) -> list[Section]:
        """Returns the most confident mistakes and the least confident hits."""
        return [
            self._grid("Mistakes", self._mistakes, "most", "mistakes.png"),
            self._grid("Least confident hits", self._hits, "least", "least_confident_hits.png"),
        ]

    def _grid(self, title: str, indices: np.ndarray, order: str, file: str) -> Section:
        shown = indices[:IMAGES_SHOWN]
        count = f"{len(indices):,} of {len(self._predicted):,} images"
        text = f"{count}; shown are the {order} confident {len(shown)}."
        if not len(shown):
            return Section(title, text)
        captions = [self._caption(i) for i in shown]
        grid = draw_grid(self._split.images[shown], captions)
        return Section(title, text, {file: encode_picture(grid)}, captions=captions)

    def _caption(self, i: int) -> str:
        names, probabilities = self._run.class_names, self._probabilities[i]
        wrong = self._predicted[i] != self._split.labels[i]
        other = self._split.labels[i] if wrong else probabilities.argsort()[-2:][0]
        return (
            f"{names[self._predicted[i]]}: {self._confidence[i]:.2f}\n"
            f"{'true' if wrong else 'next'} {names[other]}: {probabilities[other]:.2f}"
        )

    def explanations(self) -> Section:
        """Returns Grad-CAM maps of a convincing example of every class, of mistakes and of close calls."""
        run, images = self._run, self._split.images
        best = [
            self._hits[self._predicted[self._hits] == label][-1:] for label in range(len(run.class_names))
        ]
        half = EXPLAINED // 2
        chosen = np.concatenate([np.concatenate(best)[:half], self._mistakes[:half], self._hits[:half]])
        indices = np.array(list(dict.fromkeys(chosen[:EXPLAINED].tolist())))
        count = len(run.network.architecture.blocks)
        stages = [f"stage{i}" for i in range(count, count - STAGES_EXPLAINED, -1)]
        maps = grad_cam(run.network, run.weights, images[indices], self._predicted[indices], stages=stages)
        tiles, captions = [], []
        for k, i in enumerate(indices):
            tiles += [images[i], *(figures.overlay(images[i], maps[stage][k]) for stage in stages)]
            captions += [self._caption(i), *(f"{s}\n{'x'.join(map(str, maps[s].shape[1:]))}" for s in stages)]
        text = (
            "Where the score of the predicted class comes from (Grad-CAM, Selvaraju et al. 2017): in the"
            " output of the last stage, which sees the whole image but resolves little, and of the two"
            " before it."
        )
        if run.config.seeds:
            text += f" Maps are those of seed {run.config.seeds[0]}."
        picture = encode_picture(draw_grid(np.stack(tiles), captions))
        captions = [self._caption(i) for i in indices]  # The maps are left out.
        return Section("Grad-CAM", text, {"grad_cam.png": picture}, captions=captions)


def _corruptions(run: TrainedRun, workdir: Path, split_name: str) -> list[Section]:
    """Returns the last result of `--mode=eval --corruptions=standard`, if it is about these weights."""
    file = workdir / f"eval_{split_name}_standard_corruptions.json"
    result = read_optional_json(file, corruptions.SCHEMA, "it is left out, and --mode=eval makes it again")
    if result is None or not run.identity.items() <= result.items():
        return []
    if list(result.get("seeds", ())) != list(map(str, run.config.seeds)):
        return []
    result = result["mean"] if run.config.seeds else result
    text = (
        f"Accuracy under corruptions in the manner of ImageNet-C (Hendrycks & Dietterich 2019):"
        f" {result['mean']:.4f} in the mean, {result['clean']:.4f} on clean images."
    )
    picture = figures.encode_figure(figures.corruptions(result))
    return [Section("Corruptions", text, {"corruptions.png": picture})]


def _batch(run: TrainedRun) -> Section:
    config = run.config.copy_and_resolve_references()
    config.batch_size = run.batch_size
    images, labels = first_training_batch(run.stored_train, config)
    captions = [run.class_names[label] for label in labels[:BATCH_SHOWN]]
    picture = encode_picture(draw_grid(images[:BATCH_SHOWN], captions))
    text = "A batch of training images, augmented as at the end of training."
    return Section("Augmented batch", text, {"augmented_batch.png": picture}, captions=captions)


def _course(histories: Sequence[figures.History]) -> Section:
    return Section(
        "Course of training",
        "Learning rate, norm of the gradient, and speed.",
        {
            "learning_rate.png": figures.encode_figure(figures.learning_rate(histories)),
            "throughput.png": figures.encode_figure(figures.throughput(histories)),
        },
    )


def _settings(run: TrainedRun, summary: dict[str, Any]) -> list[Section]:
    defaults = rules.default_fields()
    fields = list(rules.flatten(run.config))
    changed = frozenset(i for i, (name, value) in enumerate(fields) if value != defaults[name])
    rows = [(name, str(value)) for name, value in fields]
    sections = [
        Section(
            "Settings",
            "Every field of the run; those that differ from configs/default.py stand out.",
            tables=[Table(["field", "value"], rows, changed)],
        )
    ]
    if summary:
        versions = [("device", summary["device"]), *summary["versions"].items()]
        sections.append(Section("Versions", "What the run ended on.", tables=[Table(["", ""], versions)]))
    return sections


def _weights_name(kind: str) -> str:
    return {"ema": "moving average of the weights", "raw": "raw weights"}[kind]


def _data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()
