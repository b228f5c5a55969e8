"""Draws the pictures of a report of `claims`: `python -m benchmarks.claims_plot REPORT.json FOLDER`."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnet.files import write_result

Rows = Sequence[dict[str, Any]]


def plot(report: dict[str, Any], folder: Path) -> None:
    """Draws `claims_GROUP.png` in `folder` for each group; bars and bands are standard deviations."""
    # It imports JAX, which this process does not need for measuring.
    from evaluation.report.figures import encode_figure

    drawings = {"keras": (_draw_keras, 6), "plain": (_draw_plain, 12), "batch": (_draw_batch, 9)}
    for group, rows in report["groups"].items():
        draw, width = drawings[group]
        figure = Figure(figsize=(width, 3.9), layout="constrained")
        draw(figure, rows)
        for axes in figure.axes:
            axes.grid(color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize="small", frameon=False)
        title = (
            f"{rows[0]['config']}, {rows[0]['settings']['num_epochs']} epochs;"
            f" mean and standard deviation of {len(rows[0]['seeds'])} seeds"
        )
        figure.suptitle(title, fontsize="medium", x=0.01, ha="left")
        write_result(folder / f"claims_{group}.png", encode_figure(figure))


def _draw_keras(figure: Figure, rows: Rows) -> None:
    """Draws the test accuracy of every seed, their mean, and the published accuracy."""
    (row,) = rows
    axes = figure.subplots()
    accuracies = [_test_accuracy(results) for results in row["seeds"].values()]
    axes.plot(list(row["seeds"]), accuracies, "o", label="a seed")
    _errorbars(axes, ["mean"], rows, value=_test_accuracy, label="mean", marker="s")
    axes.axhline(row["published"], color="grey", linestyle="--", label=f"published, {row['published']}")
    axes.set(xlabel="seed", ylabel="test accuracy")
    axes.margins(x=0.15, y=0.15)


def _draw_plain(figure: Figure, rows: Rows) -> None:
    """Draws the training loss over epochs, without and with shortcuts, and the final training accuracy."""
    *curves, end = figure.subplots(1, 3)
    curves[1].sharey(curves[0])
    for axes, network, colour in zip(curves, ("plain", "residual"), ("C3", "C4"), strict=True):
        rows_of_network = [row for row in rows if row["what"]["network"] == network]
        for i, row in enumerate(rows_of_network):
            # The deviations of a single seed are None.
            mean, std = (
                np.nan_to_num(np.array(row[kind]["loss_by_epoch"], float)) for kind in ("mean", "std")
            )
            epochs = np.arange(1, len(mean) + 1)
            axes.fill_between(epochs, mean - std, mean + std, color=f"C{i}", alpha=0.2, linewidth=0)
            axes.plot(epochs, mean, ".-", color=f"C{i}", label=f"{network}, {row['what']['depth']} layers")
        axes.set(xlabel="epoch", ylabel="loss on augmented training images")
        depths = [str(row["what"]["depth"]) for row in rows_of_network]
        _errorbars(end, depths, rows_of_network, value=_train_accuracy, label=network, color=colour)
    end.set(xlabel="layers", ylabel="accuracy on training images at the end")
    end.margins(x=0.15)


def _draw_batch(figure: Figure, rows: Rows) -> None:
    """Draws test accuracy and seconds over the batch size, for both rules of the learning rate."""
    accuracy, seconds = panels = figure.subplots(1, 2)
    for rule, label, shift in (
        ("same", "same learning rate", 0.97),
        ("scaled", "in proportion to the batch", 1.03),
    ):
        rows_of_rule = [row for row in rows if row["what"]["rule"] in (rule, "both")]
        sizes = [row["what"]["batch"] for row in rows_of_rule]
        x = [size * shift for size in sizes]  # Bars in the same place would hide each other.
        _errorbars(accuracy, x, rows_of_rule, value=_test_accuracy, label=label)
        _errorbars(seconds, x, rows_of_rule, value=lambda results: results["seconds"], label=label)
        for axes in panels:
            axes.set_xscale("log")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("batch size")
    accuracy.set_ylabel("test accuracy")
    seconds.set_ylabel("seconds of training steps")
    seconds.set_ylim(bottom=0)


def _test_accuracy(results: dict[str, Any]) -> float | None:
    return results["test"]["accuracy"]


def _train_accuracy(results: dict[str, Any]) -> float | None:
    return results["train"]["accuracy"]


def _errorbars(
    axes: Axes,
    x: Sequence[Any],
    rows: Rows,
    *,
    value: Callable[[Any], float | None],
    label: str,
    **style: str,
) -> None:
    means = [value(row["mean"]) for row in rows]
    stds = [value(row["std"]) or 0.0 for row in rows]
    axes.errorbar(x, means, stds, **{"marker": "o", **style}, markersize=5, capsize=4, label=label)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
