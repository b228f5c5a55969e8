"""What a run writes while it trains: `metrics.jsonl`, TensorBoard events, and progress on the terminal."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from files import write_whole

# tensorboardX imports PyTorch where it is installed: seconds of every start, for what is never written here.
_torch = sys.modules.setdefault("torch", None)
from tensorboardX import SummaryWriter  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends one JSON object a line to `metrics.jsonl`, and the same numbers to TensorBoard's files."""

    def __init__(self, workdir: Path, step: int) -> None:
        """Continues at `step`: what a killed run had written beyond it is dropped."""
        path = workdir / METRICS_FILE
        _drop_lines_after(workdir, step)
        self._file = path.open("a")
        # The suffix: files are named by the second, and one of the same name would be written over.
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step:09}"
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
        """Writes `values` measured on `split` after `step`."""
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, each with `step`, `epoch`, `split` and what was measured.

    Empty where nothing was written yet. A half-written last line, of a run that was killed, is left out.
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


class ProgressBar:
    """A bar on a terminal, plain lines elsewhere."""

    def __init__(self, total_steps: int, step: int) -> None:
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._total_steps = total_steps

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(
        self, step: int, epoch: float, measured: dict[str, float], rate: float, batch_size: int
    ) -> None:
        """Shows where the run is after `step`; `rate` is in images per second."""
        shown = f"loss {measured['loss']:.4f} accuracy {measured['accuracy']:.4f} {rate:.1f} images/s"
        if self._bar.disable:
            left = tqdm.format_interval((self._total_steps - step) * batch_size / rate)
            print(f"epoch {epoch:.2f} step {step}/{self._total_steps} {shown} left {left}", flush=True)
        else:
            self._bar.set_postfix_str(f"epoch {epoch:.1f} {shown}", refresh=False)
            self._bar.update(step - self._bar.n)

    def note(self, epoch: float, split: str, measured: dict[str, float]) -> None:
        """Prints what was measured on `split`, above the bar."""
        shown = " ".join(f"{name} {value:.4f}" for name, value in measured.items())
        tqdm.write(f"epoch {epoch:.2f} {split} {shown}")
