"""Training runs for benchmarks of what comes out of them, each in a process of its own: `train_all`.

A finished run is not trained again, and one that was killed goes on: all that a run knows is in its workdir.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ml_collections import ConfigDict

import main as program
import settings
from benchmarks.rounds import Failed
from benchmarks.worker import CPU_ONLY, ROOT
from configs import default
from errors import UserError

POLL_SECONDS = 0.2


class Measurement(NamedTuple):
    """Something to measure on a split, as `--mode=eval` does: it may be under a group of `corruptions`.

    With `rendered` it is on so many rendered hands of full variety instead, of which none was trained on.
    """

    split: str
    corruptions: str = ""
    rendered: int = 0

    @property
    def file(self) -> str:
        """The file that `--mode=eval` writes."""
        data = "rendered_" if self.rendered else ""
        return f"eval_{data}{self.split}{self.corruptions and f'_{self.corruptions}_corruptions'}.json"

    def other_data(self, of_run: ConfigDict) -> ConfigDict | None:
        """The rendered hands to measure on, None where it is on the run's own data, `of_run`."""
        if not self.rendered:
            return None
        data = default.get_config().data
        data.update(settings.preparation(of_run))
        data.update(name="rendered", train_size=1, test_size=self.rendered)
        return data


class Run(NamedTuple):
    """A run to train in `workdir` by `arguments` of main.py, and what to measure at its end.

    `test` says when training looks at the test split, see `train_and_evaluate`. The moving average is then
    measured by each of `measurements`.
    """

    workdir: str
    arguments: list[str]
    test: str = "last"
    measurements: tuple[Measurement, ...] = ()

    @property
    def results(self) -> list[Path]:
        """The files that `read` takes, in the order in which they are written."""
        names = ["summary.json", *(measurement.file for measurement in self.measurements)]
        return [Path(self.workdir, name) for name in names]

    def read(self) -> list[dict[str, Any]]:
        """What the files of `results` hold."""
        return [json.loads(path.read_text()) for path in self.results]

    def config(self) -> ConfigDict:
        """The settings that its arguments come to.

        Raises:
            UserError: they cannot be used.
        """
        argv = ["main.py", *self.arguments]
        values = program.define_flags(argv)
        # ml_collections keeps a config file as a module, and would run the next one on top of it.
        sys.modules.pop("config_config", None)
        program.parse_flags(values, argv)
        settings.check(values.config)
        return values.config

    def check(self) -> None:
        """Checks what would else be told only after the runs before it were trained.

        Raises:
            UserError: its settings cannot be used, or are not those that its workdir was trained with.
        """
        config = self.config()
        workdir = Path(self.workdir)
        if not os.path.exists(workdir / settings.CONFIG_FILE):
            return
        stored, _ = settings.load(workdir)
        if config.num_epochs != stored.num_epochs:
            raise UserError(
                f"{workdir}: holds a run of config.num_epochs={stored.num_epochs}, here it is"
                f" {config.num_epochs}, and a run that went on so would be neither; use another --workdir, or"
                " the same settings"
            )
        if not config.init_from:  # Its file sets the model, and is read in the run.
            settings.check_same_run(config, workdir, settings.trained_on(workdir), finished=True)

    def is_finished(self) -> bool:
        """Whether all that it is to give is there, for these settings and no older than the training."""
        try:
            stored, _ = settings.load(Path(self.workdir))
        except UserError:
            return False
        config = self.config()
        if dict(settings.flatten(stored)) != dict(settings.flatten(config)):
            return False
        written = [path.stat().st_mtime_ns if os.path.exists(path) else 0 for path in self.results]
        if not written[0] or written != sorted(written):
            return False
        summary, *measured = self.read()
        # A training that was to go on, and was killed, has written its settings beside older results.
        seeds, expected = list(map(str, config.seeds)), {"prediction": settings.prediction(config)}
        if any(list(results.get("seeds", ())) != seeds for results in (summary, *measured)):
            return False
        if not (expected | {"epochs": config.num_epochs}).items() <= summary.items():
            return False
        # Who evaluates a run in other ways leaves files of the same names.
        expected |= {"step": summary["steps"], "weights": "ema" if config.ema_decay else "raw"}
        for measurement, found in zip(self.measurements, measured, strict=True):
            data = measurement.other_data(config.data)
            expected_data = json.loads(json.dumps(data.to_dict())) if data is not None else None
            if not expected.items() <= found.items() or found.get("data") != expected_data:
                return False
        return True


def train_all(runs: Sequence[Run], jobs: int = 1, device: str = "cpu") -> None:
    """Trains and measures those of `runs` that are not finished, `jobs` at a time.

    Several at a time share the cores evenly, each bound to its own, and write what they print to a file
    beside their workdir.

    Raises:
        UserError: the settings of one or its data cannot be used, or its workdir holds a run of others.
        Failed: one broke down; the others are stopped, and saved.
    """
    for run in runs:
        run.check()
    waiting = deque(run for run in runs if not run.is_finished())
    running: dict[int, tuple[Run, subprocess.Popen]] = {}
    before = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        while waiting or running:
            for slot in set(range(jobs)) - running.keys():
                if waiting:
                    run = waiting.popleft()
                    running[slot] = run, _start(run, slot, jobs, device)
                    print(f"{run.workdir}: started, {len(waiting)} waiting", flush=True)
            time.sleep(POLL_SECONDS)
            for slot, (run, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    if process.returncode:
                        _fail(run, process.returncode, alone=jobs == 1)
    finally:
        for _, process in running.values():
            process.terminate()  # They save first.
        for _, process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _start(run: Run, slot: int, jobs: int, device: str) -> subprocess.Popen:
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[slot % len(cores) :: jobs] if jobs > 1 else cores
    environment = os.environ | (CPU_ONLY if device == "cpu" else {})
    command = [sys.executable, "-m", "benchmarks.runs", json.dumps(run._asdict()), json.dumps(cores)]
    # In a session of its own: Ctrl-C is for us, and a second signal would kill what is being saved.
    start = partial(subprocess.Popen, command, cwd=ROOT, env=environment, start_new_session=True)
    if jobs == 1:
        return start()
    log = _log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        return start(stdout=output, stderr=output)


def _fail(run: Run, code: int, alone: bool) -> NoReturn:
    """Passes on what ended a run: a user's mistake in the line that told of it, anything else as `Failed`."""
    if code == 2 and alone:
        sys.exit(2)  # It has printed the line.
    if code == 2:
        raise UserError(_log(run).read_text().splitlines()[-1].removeprefix("error: "))
    raise Failed(f"{run.workdir}: training ended with code {code}" + ("" if alone else f"; see {_log(run)}"))


def _log(run: Run) -> Path:
    return Path(f"{run.workdir}.log")


def _train(run: Run, cores: Sequence[int]) -> int:
    """In the process of its own: trains and measures `run` on `cores`; returns the exit code."""
    os.sched_setaffinity(0, cores)  # XLA starts as many threads as there are.
    config = run.config()
    program.apply_accelerator_settings(config, training=True)
    import modes
    from train import StopRun, train_and_evaluate

    workdir = Path(run.workdir)
    try:
        train_and_evaluate(config, workdir, run.test)
    except StopRun as stop:
        return 128 + stop.signum
    for measurement in run.measurements:
        other_data = measurement.other_data(config.data)
        corruptions = measurement.corruptions or None
        modes.evaluate(workdir, measurement.split, corruptions, "last", False, False, other_data)
    return 0


if __name__ == "__main__":
    try:
        told = json.loads(sys.argv[1])
        told["measurements"] = tuple(Measurement(*each) for each in told["measurements"])
        sys.exit(_train(Run(**told), json.loads(sys.argv[2])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
