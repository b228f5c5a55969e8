"""Training runs for benchmarks of their results: `train_all` runs each in a process of its own.

A finished run is not trained again, and a killed one is resumed. The state of a run is all in its workdir.
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

import datasets
from benchmarks.program import parse_command
from benchmarks.rounds import Failed
from benchmarks.worker import ROOT, device_variables
from configs import default, rules
from devices import environment
from modes.eval import evaluate_run
from resnet.errors import UserError
from resnet.run import CONFIG_FILE
from workdir import settings
from workdir.lock import locked
from workdir.summary import SUMMARY_FILE

POLL_SECONDS = 0.2


class Measurement(NamedTuple):
    """An evaluation on a split, as `--mode=eval` does it, perhaps under a group of `corruptions`.

    `rendered` above 0 is the number of rendered hands of full variety that replace the data of the run. None
    of them was trained on. `photographs`, a folder or an archive with images by class, replaces the data too.
    """

    split: str
    corruptions: str = ""
    rendered: int = 0
    photographs: str = ""

    @property
    def file(self) -> str:
        """The file that `--mode=eval` writes."""
        data = "rendered_" if self.rendered else f"{Path(self.photographs).name}_" if self.photographs else ""
        return f"eval_{data}{self.split}{self.corruptions and f'_{self.corruptions}_corruptions'}.json"

    def other_data(self, run_data: ConfigDict) -> ConfigDict | None:
        """Returns the settings of the data to measure on, or None for the run's own data.

        `run_data` is the `data` part of the config of the run.
        """
        if not self.rendered and not self.photographs:
            return None
        data = default.get_config().data
        data.update(settings.preparation(run_data))
        if self.rendered:
            data.update(name="rendered", train_size=1, test_size=self.rendered)
        else:
            data.update(name="folder", dir=self.photographs)
        return data


class Run(NamedTuple):
    """A run to train in `workdir` with `arguments` of main.py, and the `measurements` at its end.

    `test` says when training evaluates the test split, see `train_and_evaluate`. The measurements use the
    moving average of the weights.
    """

    workdir: str
    arguments: list[str]
    test: str = "last"
    measurements: tuple[Measurement, ...] = ()

    @property
    def results(self) -> list[Path]:
        """The files with the results, in the order in which they are written."""
        names = [SUMMARY_FILE, *(measurement.file for measurement in self.measurements)]
        return [Path(self.workdir, name) for name in names]

    def read(self) -> list[dict[str, Any]]:
        """Returns the contents of `results`."""
        return [json.loads(path.read_text()) for path in self.results]

    def config(self) -> ConfigDict:
        """Returns the settings that the arguments describe.

        Raises:
            UserError: they cannot be used.
        """
        return parse_command(self.arguments).settings()

    def check(self) -> None:
        """Checks the settings before any run is trained, so that a mistake shows at once.

        Raises:
            UserError: the settings cannot be used, or the workdir holds a run of other settings.
        """
        config = self.config()
        workdir = Path(self.workdir)
        if not os.path.exists(workdir / CONFIG_FILE):
            return
        stored, _ = settings.load(workdir)
        if config.num_epochs != stored.num_epochs:
            raise UserError(
                f"{workdir}: holds a run with config.num_epochs={stored.num_epochs}; resumed with"
                f" {config.num_epochs}, its schedule would match neither; use another --workdir, or the same"
                " settings"
            )
        if not config.init_from:  # Otherwise that file sets the model, and only the run reads it.
            settings.check_same_run(config, workdir, settings.stored_sources(workdir), finished=True)

    def is_finished(self) -> bool:
        """Whether all results are there, belong to these settings, and are no older than the training."""
        try:
            stored, _ = settings.load(Path(self.workdir))
        except UserError:
            return False
        config = self.config()
        if dict(rules.flatten(stored)) != dict(rules.flatten(config)):
            return False
        written = [path.stat().st_mtime_ns if os.path.exists(path) else 0 for path in self.results]
        if not written[0] or written != sorted(written):
            return False
        summary, *evaluations = self.read()
        # A training that was resumed and killed again has written its settings beside older results.
        seeds, expected = list(map(str, config.seeds)), {"prediction": settings.prediction(config)}
        if any(list(results.get("seeds", ())) != seeds for results in (summary, *evaluations)):
            return False
        if not (expected | {"epochs": config.num_epochs}).items() <= summary.items():
            return False
        # Evaluating a run by hand, in other ways, writes files of the same names.
        expected |= {"step": summary["steps"], "weights": "ema" if config.ema_decay else "raw"}
        for measurement, result in zip(self.measurements, evaluations, strict=True):
            data = measurement.other_data(config.data)
            expected_data = json.loads(json.dumps(data.to_dict())) if data is not None else None
            if not expected.items() <= result.items() or result.get("data") != expected_data:
                return False
        return True


def load_with_test_images(data: ConfigDict) -> datasets.Dataset:
    """Returns the data set of `data`, the `data` part of a config, for a measurement on its test images.

    Raises:
        UserError: it cannot be loaded, or has no test images.
    """
    dataset = datasets.load(data)
    if dataset.test is None:
        raise UserError(f"{data.dir or data.name}: has no test images; expected some, to measure accuracy on")
    return dataset


def train_all(runs: Sequence[Run], jobs: int = 1, device: str = "cpu") -> None:
    """Trains and measures the `runs` that are not finished, `jobs` at a time.

    With several jobs, each is bound to its own share of the cores, and writes its output to a file beside its
    workdir.

    Raises:
        UserError: the settings or the data of a run cannot be used, or its workdir holds another run.
        Failed: a run failed; the others are stopped, and saved.
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
    variables = os.environ | device_variables(device)
    command = [sys.executable, "-m", "benchmarks.runs", json.dumps(run._asdict()), json.dumps(cores)]
    # In a session of its own, Ctrl-C does not reach it. It would be a second signal, which kills a run that
    # is saving.
    start = partial(subprocess.Popen, command, cwd=ROOT, env=variables, start_new_session=True)
    if jobs == 1:
        return start()
    log = _log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        return start(stdout=output, stderr=output)


def _fail(run: Run, code: int, alone: bool) -> NoReturn:
    """Reports why a run ended: a mistake of the user with the line that it printed, or else `Failed`."""
    if code == 2 and alone:
        sys.exit(2)  # The line is on the terminal already.
    if code == 2:
        raise UserError(_log(run).read_text().splitlines()[-1].removeprefix("error: "))
    raise Failed(f"{run.workdir}: training ended with code {code}" + ("" if alone else f"; see {_log(run)}"))


def _log(run: Run) -> Path:
    return Path(f"{run.workdir}.log")


def _train(run: Run, cores: Sequence[int]) -> int:
    """Trains and measures `run` on `cores` in this process; returns the exit code."""
    os.sched_setaffinity(0, cores)  # XLA starts a thread for each core.
    config = run.config()
    environment.prepare(config.gpu, compilation_cache=config.compilation_cache, training=True)
    # JAX reads the environment when it is imported.
    from train import train_and_evaluate
    from training.signals import StopRun

    workdir = Path(run.workdir)
    try:
        with locked(workdir):
            train_and_evaluate(config, workdir, run.test)
    except StopRun as stop:
        return 128 + stop.signum
    for measurement in run.measurements:
        evaluate_run(
            workdir,
            measurement.split,
            corruptions=measurement.corruptions or None,
            checkpoint="last",
            other_data=measurement.other_data(config.data),
        )
    return 0


if __name__ == "__main__":
    try:
        fields = json.loads(sys.argv[1])
        fields["measurements"] = tuple(Measurement(*values) for values in fields["measurements"])
        sys.exit(_train(Run(**fields), json.loads(sys.argv[2])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
