"""The figures of a report, drawn by matplotlib: the course of training, and how good predictions are."""

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# matplotlib warns if it cannot write its font cache. That makes the next start slower and does no other harm.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

DPI = 110
ANNOTATED_CLASSES = 20  # numbers in the cells of a larger matrix could not be read
NAMED_CLASSES = 50  # names along a larger matrix could not be read
NAME_LENGTH = 24  # characters of a class's name that are shown

History = Sequence[dict[str, Any]]  # lines of `metrics.jsonl`


def encode_figure(figure: Figure) -> bytes:
    """Returns the bytes of a PNG of `figure`."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # The font lacks some scripts. The page itself shows every name.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def learning_curves(histories: Sequence[History], final: dict[str, dict[str, float]]) -> Figure:
    """Draws loss and accuracy over epochs for every split in `histories`, with single points of `final`.

    Every seed has a history; for several seeds, means and standard deviations are drawn. `final` holds `loss`
    and `accuracy` at the end of training by name, such as "test, raw weights".
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    lines = [line for history in histories for line in history]
    last = max((line["epoch"] for line in lines), default=0)
    splits = list(dict.fromkeys(line["split"] for line in lines))
    both = "val_raw" in splits  # Otherwise there is no moving average.
    labels = {"val": "val, moving average", "val_raw": "val, raw weights"} if both else {}
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for i, split in enumerate(splits):
            label = labels.get(split, split)
            _draw_curve(axes, histories, split=split, name=name, colour=f"C{i}", label=label)
        for marker, (label, scores) in zip("*XDPv^", final.items(), strict=False):
            axes.plot(last, scores[name], marker, color="black", alpha=0.6, ms=8, label=label)
        axes.set(xlabel="epoch", ylabel=name)
        if name == "loss":
            axes.set_yscale("log")
        _finish(axes)
    return figure


def _draw_curve(
    axes: Axes, histories: Sequence[History], *, split: str, name: str, colour: str, label: str
) -> None:
    """Draws one curve of the means of every epoch, and behind it, pale, the spread around it.

    For a single seed the spread is every value, if an epoch has several. For several seeds it is one standard
    deviation either way, in the epochs that all of them have reached.
    """
    curves = [_by_epoch(history, split, name) for history in histories]
    ends = sorted(set.intersection(*map(set, curves)))
    if not ends:
        return
    values = np.array([[curve[end] for end in ends] for curve in curves])
    mean = values.mean(0)
    if len(curves) > 1:
        spread = values.std(0, ddof=1)
        # The axis may be logarithmic: a band that reaches below zero ends at the lowest seed.
        low = np.where(mean > spread, mean - spread, values.min(0))
        axes.fill_between(ends, low, mean + spread, color=colour, alpha=0.2, linewidth=0)
    else:
        every = _recorded(histories[0], split, name)
        if len(ends) < len(every[0]):
            axes.plot(*every, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(ends, mean, ".-", color=colour, label=label, markersize=4)


def _by_epoch(history: History, split: str, name: str) -> dict[float, float]:
    """Returns the mean of `name` in every epoch, by the end of the epoch."""
    epochs, values = _recorded(history, split, name)
    ends = np.ceil(epochs - 1e-3)  # Epochs are recorded to four digits.
    return {end: values[ends == end].mean() for end in np.unique(ends)}


def learning_rate(histories: Sequence[History]) -> Figure:
    """Draws the learning rate and the norm of the gradient over epochs, for every seed."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("learning_rate", "gradient_norm"), strict=True):
        for history in histories:
            axes.plot(*_recorded(history, "train", name), linewidth=1)
        axes.set(xlabel="epoch", ylabel=name.replace("_", " "), ylim=(0, None))
        _finish(axes)
    return figure


def throughput(histories: Sequence[History]) -> Figure:
    """Draws images per second, call by call, for every seed, and their median."""
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    axes = figure.subplots()
    recorded = [_recorded(history, "train", "images_per_second") for history in histories]
    for epochs, rates in recorded:
        axes.plot(epochs, rates, linewidth=1)
    if all_rates := [rate for _, rates in recorded for rate in rates]:
        median = float(np.median(all_rates))
        axes.axhline(median, color="grey", linestyle="--", label=f"median {median:,.1f}")
    axes.set(xlabel="epoch", ylabel="images per second", ylim=(0, None))
    _finish(axes)
    return figure


def confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draws counts by true class (rows) and predicted class, coloured by their share of the row."""
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(1.6 + 0.55 * len(class_names), 4, 12))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    if len(class_names) <= NAMED_CLASSES:
        ticks, names = np.arange(len(class_names)), [_shortened(name) for name in class_names]
        # A name such as "$1" is no formula.
        axes.set_xticks(ticks, names, rotation=45 if max(map(len, names)) > 3 else 0, parse_math=False)
        axes.set_yticks(ticks, names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if len(class_names) <= ANNOTATED_CLASSES:
        for row, column in np.ndindex(counts.shape):
            colour = "white" if shares[row, column] > 0.5 else "black" if counts[row, column] else "lightgrey"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    return figure


def reliability(calibration: dict[str, Any]) -> Figure:
    """Draws accuracy against mean probability, and the number of images, for every bin.

    A reliability diagram: Guo et al. 2017 (arXiv:1706.04599), figure 1.
    """
    bins = calibration["bins"]
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    lows, widths = [row["low"] for row in bins], [row["high"] - row["low"] for row in bins]
    accuracies = [row["accuracy"] for row in bins]
    upper.bar(lows, accuracies, widths, align="edge", color="tab:blue", edgecolor="white", label="accuracy")
    upper.plot([0, 1], [0, 1], "--", color="grey", label="perfect calibration")
    upper.plot([row["confidence"] for row in bins], accuracies, "o", color="black", ms=4, label="bin means")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"ECE {calibration['ece']:.4f}")
    _finish(upper)
    lower.bar(lows, [row["images"] for row in bins], widths, align="edge", color="grey", edgecolor="white")
    lower.set(xlabel="probability of the predicted class", ylabel="images", yscale="log")
    return figure


def corruptions(result: dict[str, Any]) -> Figure:
    """Draws accuracy by corruption and severity, for the result of `evaluate_corruptions`."""
    names = [*result["corruptions"], "mean"]
    table = np.array([*result["corruptions"].values(), result["by_severity"]])
    table = np.column_stack([table, table.mean(1)])
    figure = Figure(figsize=(7, 0.6 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(table.shape[1]), [*map(str, range(1, table.shape[1])), "mean"])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="severity")
    for (row, column), accuracy in np.ndenumerate(table):
        colour = "white" if abs(accuracy - 0.5) > 0.4 else "black"  # The colours' ends are dark.
        axes.text(column, row, f"{accuracy:.3f}", color=colour, ha="center", va="center", fontsize="small")
    return figure


def range_test(
    rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, marks: dict[str, float]
) -> Figure:
    """Draws `losses` [steps] of a range test over their learning rates, `smoothed` losses, and `marks`."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="loss of each step")
    axes.plot(rates, smoothed, color="tab:blue", label="smoothed")
    for (name, rate), colour in zip(marks.items(), ("tab:red", "tab:orange"), strict=False):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name} {rate:.2g}")
    # Losses that diverge at the end would flatten everything before.
    low, first = smoothed.min(), smoothed[0]
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.set_ylim(low - 0.2 * (first - low) - 0.05, first + 0.5 * (first - low) + 0.05)
    _finish(axes)
    return figure


def probe(result: dict[str, Any]) -> Figure:
    """Draws accuracy by layer of both classifiers on frozen features, for the result of `probe_layers`."""
    rows = result["layers"]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = {"linear": "linear probe", "knn": f"{result['neighbours']} nearest neighbours"}
    for (name, label), marker in zip(names.items(), "os", strict=True):
        axes.plot([row["layer"] for row in rows], [row[name] for row in rows], f"{marker}-", label=label)
    if "network" in result:
        label = f"the network's own head, {result['network']:.3f}"
        axes.axhline(result["network"], color="grey", linestyle="--", label=label)
    axes.set(
        ylim=(None, 1.01), ylabel=f"accuracy on {result['images']['test']} {result['measured_on']} images"
    )
    _finish(axes)
    return figure


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns `image` uint8 [H, W, 3] under the enlarged `heat` [h, w] of 0 to 1."""
    height, width = image.shape[:2]
    enlarged = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(enlarged), 0, 1)[..., None]
    colours = colormaps["turbo"](strength[..., 0])[..., :3] * 255
    opacity = 0.25 + 0.35 * strength
    return np.rint(image * (1 - opacity) + colours * opacity).astype(np.uint8)


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _recorded(history: History, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["epoch"], line[name]) for line in history if line["split"] == split and name in line]
    return tuple(np.array(points, float).reshape(-1, 2).T)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
