"""Kills and signals at random moments: a run that is interrupted and resumed ends in the same bits.

`python -m tests.campaigns.kills --case=validated:7` repeats a case: the same run, with the same delays. When
they hit depends on the machine, so a failure may need a few repetitions.
"""

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from tests.campaigns.part import Part, repeat
from tests.campaigns.programs import Ended, Interruption, leftovers, run
from tests.campaigns.seeds import CONFIG, NO_AUGMENTATION, environment
from tests.campaigns.tally import Failure, InvalidSeedError, Tally, last_line
from tests.command_line import flags_of
from tests.runs import SMALL

FIELDS = {
    **SMALL,
    **NO_AUGMENTATION,
    "augment.flip": 0.5,  # Something is drawn.
    "data.image_size": 32,
    "num_epochs": 8,
    "batch_size": 10,
    "steps_per_call": 1,
    "checkpoint.every_epochs": 1.0,
}
VARIANTS = {
    "plain": {},
    "validated": {"data.val_fraction": 0.3},
    "seeds": {"seeds": "4,1", "num_epochs": 4, "data.val_fraction": 0.3},
}
USES = {"report": "written", "eval": "test split"}  # other modes, and how the line begins at their end
CODES = {signal.SIGKILL: 137, signal.SIGTERM: 143, signal.SIGINT: 130}
SPEEDS = ("seconds", "images_per_second")
INTERRUPTIONS = (4, 10)  # of a run, after which it may end
PIECES = 4  # of a training, in one of which most interruptions come
WORK = 120.0  # seconds of a processor, the most that an interrupted program may take

KINDS = ("wrong code", "traceback", "hang", "other bits", "other metrics", "left over", "not resumed")


class Reference(NamedTuple):
    """A run that nothing interrupted, and how long it took: until its first epoch, and in all."""

    workdir: Path
    first: float
    seconds: float


class Kills(Part):
    """Interrupts runs and compares them with undisturbed ones."""

    name = "kills"
    outcomes = ("runs", "kills", "signals", "ended before", "bits equal", *KINDS)

    def __init__(self, folder: Path, seeds: Path, seed: int, tally: Tally) -> None:
        super().__init__(folder, seeds, seed, tally)
        self.environment = environment(folder.parent)
        self._references: dict[str, Reference] = {}
        self._locks = {name: Lock() for name in VARIANTS}
        folder.mkdir(parents=True, exist_ok=True)

    def cases(self) -> Iterator[str]:
        """Yields the names of cases without end."""
        for number in count():
            yield from (f"{name}:{number}" for name in VARIANTS)
            yield f"{list(USES)[number % len(USES)]}:{number}"

    def arguments(self, name: str, workdir: Path) -> list[str]:
        """Returns the arguments of main.py that train a variant in `workdir`, without a report of its own."""
        pretend_report(workdir)
        for seed in (4, 1) if name == "seeds" else ():
            pretend_report(workdir / f"seed_{seed}")
        fields = FIELDS | {"data.dir": self.seeds / "signs"} | VARIANTS[name]
        return [CONFIG, f"--workdir={workdir}", *flags_of(fields)]

    def reference(self, name: str) -> Reference:
        """Trains a variant undisturbed, twice: the second time from warm caches, to the same bits."""
        with self._locks[name]:
            if name not in self._references:
                first, second = (self.folder / f"{name}_{i}" for i in ("first", "second"))
                for workdir in (first, second):
                    shutil.rmtree(workdir, ignore_errors=True)
                    ended = run(self.arguments(name, workdir), self.environment, line="epoch", seconds=600)
                    if ended.code != 0:
                        raise InvalidSeedError(f"the undisturbed run ended with {ended}")
                if problems := list(differences(first, second)):
                    raise InvalidSeedError(f"two undisturbed runs differ: {problems}")
                self._references[name] = Reference(second, ended.first, ended.seconds)
            return self._references[name]

    def run(self, case: str) -> list[Failure]:
        """Runs `case`, counts how it ended, and returns what went wrong."""
        name = case.partition(":")[0]
        rng = Random(f"{self.seed}/{case}")
        workdir = self.folder_of(case)
        interrupted = self._interrupted_use if name in USES else self._interrupted_run
        try:
            problems = interrupted(name, workdir, rng)
        except InvalidSeedError as error:
            problems = [("undisturbed run failed", str(error))]
        self.tally.count("runs")
        return self.judge(case, problems)

    def _interrupted_run(self, name: str, workdir: Path, rng: Random) -> list[tuple[str, str]]:
        """Trains with interruptions until the run is finished, and compares it with the undisturbed one."""
        reference, problems = self.reference(name), []
        for _ in range(rng.randint(*INTERRUPTIONS)):
            ended = self._interrupt(self.arguments(name, workdir), moment(rng, reference), problems)
            if ended.code == 0 or problems or time.monotonic() > self.deadline:
                break
        ended = run(self.arguments(name, workdir), self.environment)
        if ended.code != 0 or "Traceback" in ended.err or "damaged" in ended.err:
            problems.append(("not resumed", f"exit code {ended.code}: {last_line(ended.err)}"))
            return problems
        problems += differences(reference.workdir, workdir)
        if not problems:
            self.tally.count("bits equal")
        return problems

    def _interrupted_use(self, name: str, workdir: Path, rng: Random) -> list[tuple[str, str]]:
        """Interrupts a report or an evaluation of a finished run, after which the next one ends well."""
        shutil.copytree(self.seeds / "run", workdir)
        arguments, problems = [f"--mode={name}", f"--workdir={workdir}"], []
        signum = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGINT))
        # From the start of main.py until after its end, on a machine that does nothing else.
        self._interrupt(arguments, Interruption(signum, rng.uniform(0.3, 6)), problems)
        if left := leftovers(workdir):
            problems.append(("left over", ", ".join(left)))
        for file in workdir.glob("*.json"):
            json.loads(file.read_text())
        ended = run(arguments, self.environment)
        if ended.code != 0:
            problems.append(("not resumed", f"exit code {ended.code}: {last_line(ended.err)}"))
        return problems

    def _interrupt(
        self, arguments: list[str], interruption: Interruption, problems: list[tuple[str, str]]
    ) -> Ended:
        """Runs the program until it is interrupted; adds what it did wrong to `problems`."""
        ended = run(arguments, self.environment, interruption=interruption, seconds=WORK)
        signum = signal.Signals(interruption.signum)
        when = f"{signum.name} {interruption.delay:.2f} s after {interruption.line or 'the start'!r}"
        expected = {CODES[interruption.signum]} | ({0} if not ended.was_running or ended.out else set())
        if not ended.was_running:
            self.tally.count("ended before")
        else:
            self.tally.count("kills" if signum == signal.SIGKILL else "signals")
        if ended.code is None:
            problems.append(("hang", f"{when}: still there after {ended.seconds:.0f} s"))
        elif "Traceback" in ended.err:
            problems.append(("traceback", f"{when}: {last_line(ended.err)}"))
        elif ended.code not in expected:
            problems.append(("wrong code", f"{when}: {ended.code}: {last_line(ended.err)}"))
        return ended


def moment(rng: Random, reference: Reference) -> Interruption:
    """Draws a signal and its moment: a quarter of them anywhere, the others while it trains and saves."""
    signum = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    if rng.random() < 1 / 4:
        # Before a third of a second, a signal may hit Python itself, before it reads main.py.
        earliest = 0.0 if signum == signal.SIGKILL else 0.3
        return Interruption(signum, rng.uniform(earliest, reference.seconds))
    # A short part of the training, so that a run has several interruptions before it ends.
    longest = max((reference.seconds - reference.first) / PIECES, 0.2)
    return Interruption(signum, rng.uniform(0, longest), "epoch")


def pretend_report(workdir: Path) -> None:
    """Makes an empty report that is newer than the run, so that training writes none."""
    page = workdir / "report" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()
    os.utime(page, (2**32, 2**32))


# Comparison


def differences(expected: Path, found: Path) -> Iterator[tuple[str, str]]:
    """Yields how two finished runs differ: in the arrays of the last checkpoint, in metrics or summary."""
    for folder in [expected, *sorted(expected.glob("seed_*"))]:
        other = found / folder.relative_to(expected)
        if _without_speeds(_summary(folder)) != _without_speeds(_summary(other)):
            yield "other metrics", f"{other / 'summary.json'} differs from {folder / 'summary.json'}"
        if not (folder / "checkpoints").exists():
            continue
        if _metrics(folder) != _metrics(other):
            yield "other metrics", f"{other / 'metrics.jsonl'} differs from {folder / 'metrics.jsonl'}"
        if names := different_arrays(folder, other):
            yield "other bits", f"{other}: {', '.join(names[:5])}"


def different_arrays(expected: Path, found: Path) -> list[str]:
    """Returns the names of the arrays that differ, by a bit, in the last checkpoints of two runs."""
    (step, one), (other_step, other) = last_state(expected), last_state(found)
    if step != other_step:
        return [f"step {other_step}, expected {step}"]
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or one[name].tobytes() != other[name].tobytes()
    ]


def last_state(workdir: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Returns the step of the last checkpoint and all arrays of its state, by name."""
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        folder = (workdir / "checkpoints" / str(max(steps)) / "state").absolute()
        tree = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return max(steps), {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "summary.json").read_text())


def _metrics(workdir: Path) -> list[Any]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [_without_speeds(json.loads(line)) for line in lines]


def _without_speeds(content: Any) -> Any:
    """Returns JSON without what depends on the machine's load."""
    if isinstance(content, Mapping):
        return {name: _without_speeds(value) for name, value in content.items() if name not in SPEEDS}
    return [_without_speeds(value) for value in content] if isinstance(content, list) else content


if __name__ == "__main__":
    sys.exit(repeat(Kills, __doc__, "validated:7"))
