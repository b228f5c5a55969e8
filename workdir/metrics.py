"""The metrics of a run: `metrics.jsonl`, and the same numbers as TensorBoard events."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet.errors import UserError
from resnet.files import open_file, reason_of, write_whole
from resnet.json_files import tell_once
from workdir.tensorboard import EventsFile

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tensorboard"
SPLITS = ("train", "val", "val_raw", "test")
MAX_LINE = 2**16  # bytes, a hundred times what is written
MAX_BYTES = 2**28  # of the file: a million lines


class MetricsWriter:
    """Appends JSON objects to `metrics.jsonl`, one a line, and the same numbers to TensorBoard's files."""

    def __init__(self, workdir: Path, step: int) -> None:
        """Goes on after `step`. Lines that a killed run had written beyond it are dropped.

        Raises:
            UserError: the file that is there cannot be read to its end.
            OSError: it cannot be written.
        """
        path = workdir / METRICS_FILE
        _drop_lines_after(path, step)
        self._file = path.open("a")
        self._board = EventsFile(workdir / BOARD_FOLDER, step)

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

    The list is empty where nothing was written yet. Lines that are damaged are left out, which is told on
    stderr, but for a last line that a kill has cut off.
    """
    lines, error = _read_whole_lines(workdir / METRICS_FILE)
    if error is not None:
        tell_once(f"warning: {error}; what cannot be read of it is left out")
    return lines


def _read_whole_lines(path: Path) -> tuple[list[dict[str, Any]], OSError | UserError | None]:
    """Returns the lines as `read_metrics` does, and what kept it from reading on to the end, if anything."""
    lines, damaged = [], []
    failure = None
    try:
        for number, text in enumerate(_read_lines(path), start=1):
            if (line := _parse(text)) is not None:
                lines.append(line)
            elif text.endswith(b"\n") or not text.startswith(b'{"step":'):
                damaged.append(number)
    except (OSError, UserError) as error:
        failure = error
    if damaged:
        count = "a line is damaged and" if len(damaged) == 1 else f"{len(damaged):,} lines are damaged and"
        tell_once(f"warning: {path}: {count} left out, first line {damaged[0]:,}")
    return lines, failure


def _read_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of `path`, in pieces if they are too long; nothing if there is no such file.

    Raises:
        UserError: it cannot be read, or after `MAX_BYTES`, if there are more.
        FileNotFoundError: it is a link to nothing.
    """
    if os.path.lexists(path):
        with open_file(path) as file:
            try:
                while text := file.readline(MAX_LINE):
                    if file.tell() > MAX_BYTES:
                        raise UserError(f"{path}: has more than {MAX_BYTES:,} bytes")
                    yield text
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({reason_of(error)})") from None


def _parse(text: bytes) -> dict[str, Any] | None:
    """Returns a line of metrics, None if `text` is something else. A schema would take ten times as long."""
    try:
        line = json.loads(text)
        step, epoch, split = line["step"], line["epoch"], line["split"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_place = type(step) is int and 0 <= step < 2**53 and split in SPLITS and _is_number(epoch)
    values = [value for name, value in line.items() if name not in ("step", "split")]
    return line if is_place and math.isfinite(epoch) and all(map(_is_number, values)) else None


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)


def _drop_lines_after(path: Path, step: int) -> None:
    """Writes the lines of `path` up to `step` alone. Something that is no file is replaced.

    Raises:
        UserError: it cannot be read to its end, so that the rest would be lost.
        OSError: it cannot be written.
    """
    if not os.path.lexists(path):
        return
    lines, failure = _read_whole_lines(path)
    if failure is not None and os.path.isfile(path):
        raise UserError(
            f"{failure}; to go on would lose the rest of it, so nothing is changed; mend the file, or move it"
            " elsewhere to go on without its lines"
        )
    if failure is not None:
        tell_once(f"warning: {failure}; what cannot be read of it is left out")
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))
