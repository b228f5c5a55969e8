"""The report of a run: `report/index.html` in its workdir, self-contained, and its pictures beside it."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

import settings
from configs import default
from evaluate import TrainedRun, load_runs, log_softmax, report_seeds, table_of_seeds
from files import read_json, write_result
from input_pipeline import first_training_batch
from metrics import read_metrics
from replicas import read_summary
from report import draw_grid, encode_picture, figures
from resnet.architecture import Architecture
from resnet.checkpoint import Which
from resnet.grad_cam import grad_cam
from spread import format_spread

FOLDER = "report"
PAGE = "index.html"
IMAGES_SHOWN = 16  # mistakes, hits
BATCH_SHOWN = 32
EXPLAINED = 12  # images with Grad-CAM
STAGES_EXPLAINED = 3  # by Grad-CAM, from the last one, whose map is 2x2 for an image of 64x64


class Table(NamedTuple):
    """Rows of text under headers; a row whose index is in `marked` stands out."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


class Section(NamedTuple):
    """A part of the page: a heading, a sentence on what is shown, pictures by file name, tables."""

    title: str
    text: str
    pictures: dict[str, bytes] = {}  # noqa: RUF012
    tables: Sequence[Table] = ()


def write_report(
    workdir: Path, split_name: str = "test", checkpoint: Which = "best", raw: bool = False
) -> Path:
    """Measures a run on a split and writes `report/` into its workdir; returns the path of the page.

    Raises:
        UserError: there is no trained run, its data cannot be read, or the report cannot be written.
    """
    runs = load_runs(workdir, checkpoint, raw)
    run = runs[0]
    logits, measured = report_seeds(runs, split_name) if run.config.seeds else run.report(split_name)
    answer = measured.get("ensemble", measured)
    histories = [read_metrics(folder) for folder in settings.seed_workdirs(run.config, workdir)]
    summary = read_summary(workdir)
    if any(history and history[-1]["step"] > summary.get("steps", 0) for history in histories):
        summary = {}  # It is that of an earlier end: the run has gone on since.
    sections = [
        _curves(histories, summary, run),
        *_seeds(measured),
        *_classes(answer),
        *_examples(run, split_name, logits),
        *_corruptions(run, workdir, split_name),
        _batch(run),
        _course(histories),
        *_settings(run, summary),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    page = environment.get_template("page.html").render(
        title=workdir.resolve().name,
        subtitle=f"{run.config.data.name}, {split_name} split, step {run.step}, {_weights_name(run.kind)}",
        facts=_facts(measured, summary),
        sections=sections,
    )
    folder = workdir / FOLDER
    pictures = {name: content for section in sections for name, content in section.pictures.items()}
    for name, content in pictures.items():
        write_result(folder / name, content)
    write_result(folder / PAGE, page)
    for stale in set(folder.glob("*.png")) - {folder / name for name in pictures}:
        stale.unlink()  # Such as the mistakes of a run that no longer makes any.
    return folder / PAGE


def _facts(measured: dict[str, Any], summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers at the head of the page: what it is, and the number. Of several seeds, of one of them."""
    facts, seeds = [], measured.get("seeds", {})
    if seeds:
        for name, measure in (("accuracy", "accuracy"), ("cross-entropy", "loss")):
            spread = format_spread(measured["mean"][measure], measured["std"][measure])
            facts.append((f"{name}, {len(seeds)} seeds", spread))
        measured = measured["ensemble"]
    of_all = ", ensemble" if seeds else ""
    facts += [
        (f"accuracy{of_all}", f"{measured['accuracy']:.4f}"),
        (f"cross-entropy{of_all}", f"{measured['loss']:.4f}"),
        (f"calibration error{of_all}", f"{measured['calibration']['ece']:.4f}"),
        ("images", f"{measured['images']:,}"),
    ]
    alone = measured.get("without_twins", {})
    if alone.get("images"):
        name = f"accuracy{of_all}, {alone['images']:,} without a near twin"
        facts.append((name, f"{alone['accuracy']:.4f}"))
    if summary:
        of_one = summary.get("mean", summary)
        facts += [
            ("parameters", f"{summary['parameters']:,}"),
            (f"training{', of one seed' if seeds else ''}", f"{of_one['seconds'] / 60:,.1f} min"),
            ("images per second", f"{of_one['images_per_second']:,.1f}"),
        ]
    return facts


def _curves(histories: Sequence[figures.History], summary: dict[str, Any], run: TrainedRun) -> Section:
    summary = summary.get("mean", summary)
    final = {"test, raw weights": summary.get("test"), "test, average": summary.get("ema", {}).get("test")}
    final = {name: measured for name, measured in final.items() if measured}
    text = (
        "On training images as the steps saw them: augmented, with raw weights"
        f"{', and with label smoothing in the loss' if run.config.label_smoothing else ''}."
        " On validation images, if any were held out, without augmentation"
        f"{', with the raw weights and with their moving average' if run.config.ema_decay else ''}."
        f"{' Means over the seeds; bands are one standard deviation wide each way.' * (len(histories) > 1)}"
    )
    picture = figures.encode_figure(figures.learning_curves(histories, final))
    return Section("Learning curves", text, {"learning_curves.png": picture})


def _seeds(measured: dict[str, Any]) -> list[Section]:
    """Each seed's numbers, for what `report_seeds` returns; nothing for a run of a single seed."""
    if "seeds" not in measured:
        return []
    headers, rows = table_of_seeds(measured)
    text = (
        "The same training from different initial weights, in another order and with other augmentation."
        " The ensemble's probabilities are the means of theirs; it is what the parts below are about."
    )
    return [Section("Seeds", text, tables=[Table(headers, rows, frozenset({len(rows) - 2}))])]


def _classes(measured: dict[str, Any]) -> list[Section]:
    names = [row["class"] for row in measured["classes"]]
    rows = [
        [
            row["class"],
            str(row["images"]),
            *("-" if row[n] is None else f"{row[n]:.4f}" for n in ("precision", "recall")),
        ]
        for row in measured["classes"]
    ]
    matrix = figures.encode_figure(figures.confusion_matrix(measured["confusion_matrix"], names))
    diagram = figures.encode_figure(figures.reliability(measured["calibration"]))
    return [
        Section(
            "Classes",
            "How often which class is taken for which; precision and recall of each.",
            {"confusion_matrix.png": matrix},
            [Table(["class", "images", "precision", "recall"], rows)],
        ),
        Section(
            "Calibration",
            "Whether a probability can be believed: of the images predicted with about 0.9, about 0.9 should"
            " be right. The expected calibration error (ECE) is the mean gap (Guo et al. 2017).",
            {"reliability.png": diagram},
        ),
    ]


def _examples(run: TrainedRun, split_name: str, logits: np.ndarray) -> list[Section]:
    split = run.split(split_name)
    probabilities = np.exp(log_softmax(logits))
    predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
    hits = np.flatnonzero(predicted == split.labels)
    hits = hits[confidence[hits].argsort()]
    mistakes = np.flatnonzero(predicted != split.labels)
    mistakes = mistakes[(-confidence[mistakes]).argsort()]

    def caption(i: int) -> str:
        guess = f"{run.class_names[predicted[i]]}: {confidence[i]:.2f}"
        wrong = predicted[i] != split.labels[i]
        other = split.labels[i] if wrong else probabilities[i].argsort()[-2:][0]
        kind = "true" if wrong else "next"
        return f"{guess}\n{kind} {run.class_names[other]}: {probabilities[i, other]:.2f}"

    def grid(indices: np.ndarray) -> bytes:
        return encode_picture(draw_grid(split.images[indices], [caption(i) for i in indices]))

    sections = []
    for title, chosen, order, file in (
        ("Mistakes", mistakes, "most", "mistakes.png"),
        ("Least confident hits", hits, "least", "least_confident_hits.png"),
    ):
        shown = chosen[:IMAGES_SHOWN]
        text = f"{len(chosen):,} of {len(predicted):,} images; shown are the {order} confident {len(shown)}."
        sections.append(Section(title, text, {file: grid(shown)} if len(shown) else {}))

    # A convincing example of each class, then what goes wrong, then what nearly does.
    best = [hits[predicted[hits] == label][-1:] for label in range(len(run.class_names))]
    half = EXPLAINED // 2
    indices = np.concatenate([np.concatenate(best)[:half], mistakes[:half], hits[:half]])[:EXPLAINED]
    indices = np.array(list(dict.fromkeys(indices.tolist())))
    count = len(Architecture.from_config(run.config.model).blocks)
    stages = [f"stage{i}" for i in range(count, count - STAGES_EXPLAINED, -1)]
    maps = grad_cam(run.network, run.weights, split.images[indices], predicted[indices], stages)
    tiles, captions = [], []
    for k, i in enumerate(indices):
        tiles += [split.images[i], *(figures.overlay(split.images[i], maps[stage][k]) for stage in stages)]
        captions += [caption(i), *(f"{s}\n{'x'.join(map(str, maps[s].shape[1:]))}" for s in stages)]
    text = (
        "Where the score of the predicted class comes from (Grad-CAM, Selvaraju et al. 2017), by the output"
        " of the last stage, which sees the whole image but resolves little, and of the two before it."
    )
    if run.config.seeds:
        text += f" Maps are those of seed {run.config.seeds[0]}."
    picture = encode_picture(draw_grid(np.stack(tiles), captions))
    return [*sections, Section("Grad-CAM", text, {"grad_cam.png": picture})]


def _corruptions(run: TrainedRun, workdir: Path, split_name: str) -> list[Section]:
    """What `--mode=eval --corruptions=standard` last found, if it was about these weights."""
    measured = read_json(workdir / f"eval_{split_name}_standard_corruptions.json")
    if not run.identity.items() <= measured.items():
        return []
    if run.config.seeds:
        if list(measured["seeds"]) != list(map(str, run.config.seeds)):
            return []
        measured = measured["mean"]
    text = (
        f"Accuracy under corruptions in the manner of ImageNet-C (Hendrycks & Dietterich 2019):"
        f" {measured['mean']:.4f} in the mean, {measured['clean']:.4f} on clean images."
    )
    picture = figures.encode_figure(figures.corruptions(measured))
    return [Section("Corruptions", text, {"corruptions.png": picture})]


def _batch(run: TrainedRun) -> Section:
    config = run.config.copy_and_resolve_references()
    config.batch_size = run.batch_size
    images, labels = first_training_batch(run.splits["train"], config)
    captions = [run.class_names[label] for label in labels[:BATCH_SHOWN]]
    picture = encode_picture(draw_grid(images[:BATCH_SHOWN], captions))
    text = "A batch of training images, augmented as at the end of training."
    return Section("Augmented batch", text, {"augmented_batch.png": picture})


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
    defaults = dict(settings.flatten(default.get_config()))
    fields = list(settings.flatten(run.config))
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
