"""The metrics of a run: `metrics.jsonl`, and the same numbers as TensorBoard events."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet.files import write_whole
from workdir.tensorboard import EventsFile

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends JSON objects to `metrics.jsonl`, one a line, and the same numbers to TensorBoard's files."""

    def __init__(self, workdir: Path, step: int) -> None:
        """Goes on after `step`. Lines that a killed run had written beyond it are dropped."""
        path = workdir / METRICS_FILE
        _drop_lines_after(workdir, step)
        self._file = path.open("a")
        self._board = EventsFile(workdir / "tensorboard", step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # Every line was flushed, or what was wrong has been told.
            self._file.close()
        self._board.close()

    def write(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
        """Writes `values`, the metrics on `split` after `step`."""
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._board.write(step, {f"{split}/{name}": value for name, value in values.items()})


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of the `metrics.jsonl` of a run: `step`, `epoch`, `split` and the metrics.

    The list is empty where nothing was written yet. A line that a kill has cut off is left out.
    """
    path = workdir / METRICS_FILE
    if not os.path.exists(path):
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
            line["step"], line["epoch"], line["split"]
        except (ValueError, KeyError, TypeError):
            continue
        lines.append(line)
    return lines


def _drop_lines_after(workdir: Path, step: int) -> None:
    path = workdir / METRICS_FILE
    if os.path.exists(path):
        kept = [json.dumps(line) + "\n" for line in read_metrics(workdir) if line["step"] <= step]
        write_whole(path, "".join(kept))
