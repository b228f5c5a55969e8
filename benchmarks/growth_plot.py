"""Draws the picture of a report of `growth`: `python -m benchmarks.growth_plot REPORT.json PICTURE.png`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet.files import write_result

TITLES = {
    "batch": "batch (images)",
    "image_size": "image (pixels a side)",
    "depth": "depth (layers)",
    "dataset_size": "data set (images)",
    "devices": "simulated devices",
}
BLUE, GREY = "#1f5fa8", "#8a8a8a"


def plot(report: dict[str, Any], path: Path) -> None:
    """Draws one column for each axis that grows: seconds a step, images a second and peak memory.

    Prints a line on stderr instead if the base case is missing, or if nothing grows.
    """
    # Measuring works without Matplotlib, and the second module imports JAX.
    from matplotlib.figure import Figure

    from evaluation.report.figures import encode_figure

    base = next((point for point in report["points"] if point["axis"] is None), None)
    axes = [axis for axis in TITLES if any(point["axis"] == axis for point in report["points"])]
    if base is None or not axes:
        print(f"{path}: not drawn, as it needs the base case and another value of an axis", file=sys.stderr)
        return
    figure = Figure(figsize=(2.1 * len(axes) + 0.6, 5.4), layout="constrained")
    grid = figure.subplots(3, len(axes), sharey="row", sharex="col", squeeze=False)
    for column, axis in zip(grid.T, axes, strict=True):
        points = [base, *(point for point in report["points"] if point["axis"] == axis)]
        _draw_axis(column, axis, sorted(points, key=lambda point: point["case"][axis]))
    for row, label in zip(grid, ("seconds / step", "images / second", "peak memory, GB"), strict=True):
        row[0].set_ylabel(label)
        row[0].set_ylim(bottom=0)
    figure.suptitle(_title(report), fontsize="medium", x=0.01, ha="left")
    grid[2, 0].legend(frameon=False, fontsize="small")
    for panel in grid.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
    write_result(path, encode_figure(figure))


def _draw_axis(panels: Sequence[Any], axis: str, points: Sequence[dict[str, Any]]) -> None:
    """Draws `points` over their value of `axis` into three panels (Matplotlib's `Axes`)."""
    values = [point["case"][axis] for point in points]
    *rates, memory = panels
    for panel, measure in zip(rates, ("seconds_per_step", "images_per_second"), strict=True):
        middle, low, high = ([point[measure][name] for point in points] for name in ("median", "low", "high"))
        panel.fill_between(values, low, high, color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(values, middle, "o-", color=BLUE, markersize=4)
    compiling = [point["compiling"]["peak_memory"] / 1e9 for point in points]
    memory.plot(values, compiling, "o--", color=GREY, markersize=3, label="compiling")
    warm = [point["peak_memory"] / 1e9 for point in points]
    memory.plot(values, warm, "o-", color=BLUE, markersize=4, label="compiled before")
    memory.set_xscale("log")
    memory.set_xticks(values, [f"{value:,}" for value in values], minor=False)
    memory.set_xticks([], minor=True)
    memory.set_xlabel(TITLES[axis])


def _title(report: dict[str, Any]) -> str:
    base, machine = report["base"], report["machine"]
    return (
        f"One training step around ResNet-{base['depth']}, batch {base['batch']} of {base['image_size']}x"
        f"{base['image_size']}, from {base['dataset_size']:,} images, on {base['devices']} device;"
        f" {machine['cpu']}, {machine['cores']} cores"
    )


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
