"""The progress of a training on the terminal."""

import sys

from tqdm import tqdm

from devices import hosts


class ProgressBar:
    """A bar on a terminal, plain lines elsewhere; nothing on hosts beside the one that writes."""

    def __init__(self, total_steps: int, step: int) -> None:
        self._shown = hosts.is_writer()
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not (self._shown and sys.stderr.isatty()),
        )
        self._total_steps = total_steps

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(
        self, step: int, epoch: float, metrics: dict[str, float], *, rate: float, seconds_left: float
    ) -> None:
        """Shows the metrics after `step`; `rate` is in images per second.

        `waiting`, if it is among the metrics, is shown too: the share of the time in which the devices waited
        for images. `seconds_left` is how long the steps that are left would take at the speed of the last
        ones; a terminal's bar has an estimate of its own.
        """
        if not self._shown:
            return
        shown = f"loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.4f} {rate:.1f} images/s"
        if "waiting" in metrics:
            shown += f" waiting {metrics['waiting']:.0%}"
        if self._bar.disable:
            left = tqdm.format_interval(seconds_left)
            print(f"epoch {epoch:.2f} step {step}/{self._total_steps} {shown} left {left}", flush=True)
        else:
            self._bar.set_postfix_str(f"epoch {epoch:.1f} {shown}", refresh=False)
            self._bar.update(step - self._bar.n)

    def note(self, epoch: float, split: str, metrics: dict[str, float]) -> None:
        """Prints the metrics on `split`, above the bar."""
        if not self._shown:
            return
        shown = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        tqdm.write(f"epoch {epoch:.2f} {split} {shown}")
