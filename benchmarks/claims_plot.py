"""The pictures of a report of `claims`: `python -m benchmarks.claims_plot REPORT.json FOLDER`."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from files import write_result

Rows = Sequence[dict[str, Any]]


def plot(report: dict[str, Any], folder: Path) -> None:
    """Draws `claims_GROUP.png` of each group in `folder`; bars and bands are standard deviations."""
    # Brings JAX, which this process does without while it measures.
    from report.figures import encode_figure

    draw = {"keras": (_keras, 6), "plain": (_plain, 12), "batch": (_batch, 9)}
    for group, rows in report["groups"].items():
        draw_rows, width = draw[group]
        figure = Figure(figsize=(width, 3.9), layout="constrained")
        draw_rows(figure, rows)
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


def _keras(figure: Figure, rows: Rows) -> None:
    """Every seed's test accuracy, their mean and the published one."""
    (row,) = rows
    axes = figure.subplots()
    accuracies = [each["test"]["accuracy"] for each in row["seeds"].values()]
    axes.plot(list(row["seeds"]), accuracies, "o", label="a seed")
    _errorbars(axes, ["mean"], rows, _test_accuracy, "mean", marker="s")
    axes.axhline(row["published"], color="grey", linestyle="--", label=f"published, {row['published']}")
    axes.set(xlabel="seed", ylabel="test accuracy")
    axes.margins(x=0.15, y=0.15)


def _plain(figure: Figure, rows: Rows) -> None:
    """Training loss over epochs, without and with shortcuts, and the training accuracy at the end."""
    *curves, end = figure.subplots(1, 3)
    curves[1].sharey(curves[0])
    for axes, network, colour in zip(curves, ("plain", "residual"), ("C3", "C4"), strict=True):
        own = [row for row in rows if row["what"]["network"] == network]
        for i, row in enumerate(own):
            # The deviations of a single seed are None.
            mean, std = (
                np.nan_to_num(np.array(row[kind]["loss_by_epoch"], float)) for kind in ("mean", "std")
            )
            epochs = np.arange(1, len(mean) + 1)
            axes.fill_between(epochs, mean - std, mean + std, color=f"C{i}", alpha=0.2, linewidth=0)
            axes.plot(epochs, mean, ".-", color=f"C{i}", label=f"{network}, {row['what']['depth']} layers")
        axes.set(xlabel="epoch", ylabel="loss on augmented training images")
        depths = [str(row["what"]["depth"]) for row in own]
        _errorbars(end, depths, own, lambda measured: measured["train"]["accuracy"], network, color=colour)
    end.set(xlabel="layers", ylabel="accuracy on training images at the end")
    end.margins(x=0.15)


def _batch(figure: Figure, rows: Rows) -> None:
    """Test accuracy and seconds over the batch size, for both rules of the learning rate."""
    accuracy, seconds = panels = figure.subplots(1, 2)
    for rule, label, shift in (
        ("same", "same learning rate", 0.97),
        ("scaled", "in proportion to the batch", 1.03),
    ):
        own = [row for row in rows if row["what"]["rule"] in (rule, "both")]
        sizes = [row["what"]["batch"] for row in own]
        x = [size * shift for size in sizes]  # Bars in the same place would hide each other.
        _errorbars(accuracy, x, own, _test_accuracy, label)
        _errorbars(seconds, x, own, lambda measured: measured["seconds"], label)
        for axes in panels:
            axes.set_xscale("log")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("batch size")
    accuracy.set_ylabel("test accuracy")
    seconds.set_ylabel("seconds of training steps")
    seconds.set_ylim(bottom=0)


def _test_accuracy(measured: dict[str, Any]) -> float | None:
    return measured["test"]["accuracy"]


def _errorbars(
    axes: Axes, x: Sequence[Any], rows: Rows, pick: Callable[[Any], float | None], label: str, **style: str
) -> None:
    means = [pick(row["mean"]) for row in rows]
    stds = [pick(row["std"]) or 0.0 for row in rows]
    axes.errorbar(x, means, stds, **{"marker": "o", **style}, markersize=5, capsize=4, label=label)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
