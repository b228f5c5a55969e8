"""Kills and signals at random moments on two hosts: a run that is resumed ends in the same bits.

`python -m tests.campaigns.hosts --kills=20 --signals=20 --seed=0`. Each interruption hits one of the hosts,
drawn at random, and the other must end as well. Runs are compared with one that nothing has disturbed. The
exit code is 1 if anything failed.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.campaigns.kills import FIELDS, differences, pretend_report
from tests.campaigns.programs import leftovers
from tests.command_line import DEFAULT_CONFIG, Result, flags_of
from tests.hosts import TIMEOUT, Hosts

HOSTS, DEVICES = 2, 2
DATA = {"data.name": "rendered", "data.train_size": 60, "data.test_size": 12, "data.val_fraction": 0.3}
LONGEST = 4.0  # seconds of training after which an interruption comes at the latest
PATIENCE = 6 * TIMEOUT  # seconds in which the other host must have ended, also on a busy machine


def arguments(workdir: Path) -> list[object]:
    """Returns the arguments that train in `workdir`."""
    pretend_report(workdir)
    return ["main.py", DEFAULT_CONFIG, f"--workdir={workdir}", *flags_of(FIELDS | DATA | {"batch_size": 12})]


def train(workdir: Path) -> tuple[list[Result], float]:
    """Trains undisturbed to the end; returns what the hosts printed, and the seconds that it took."""
    began = time.monotonic()
    with Hosts(arguments(workdir), count=HOSTS, devices=DEVICES, folder=workdir / "printed") as hosts:
        return hosts.results(), time.monotonic() - began


class Campaign:
    """Interrupts runs until there were enough kills and signals, and compares each with `reference`."""

    def __init__(self, folder: Path, rng: Random, left: Counter[int]) -> None:
        """`left` are the interruptions that are still to come, by signal."""
        self._folder, self._rng, self._left = folder, rng, left
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._reference = folder / "reference"

    def run(self) -> None:
        """Runs all of it."""
        results, self._seconds = train(self._reference)
        again, _ = train(self._folder / "again")
        codes = [result.code for result in (*results, *again)]
        self._check(not any(codes), "undisturbed", (*results, *again))
        self._compare(self._folder / "again")
        print(f"undisturbed, twice: {self._seconds:.0f} s, the same bits: {not self.failures}", flush=True)
        while self._left.total() and not self.failures:
            self._interrupted_run(self._folder / f"run_{self.counts['runs']}")

    def _interrupted_run(self, workdir: Path) -> None:
        """Trains with interruptions until the run is finished, and compares it with the undisturbed one."""
        finished = False
        while self._left.total() and not finished and not self.failures:
            finished = self._interrupt(workdir)
        if not finished and not self.failures:
            results, _ = train(workdir)
            self._check([result.code for result in results] == [0] * HOSTS, "not resumed", results)
        self.counts["runs"] += 1
        self._compare(workdir)
        if left := leftovers(workdir):
            self.failures.append(f"{workdir}: left over: {', '.join(left)}")
        shutil.rmtree(workdir / "checkpoints") if not self.failures else None

    def _interrupt(self, workdir: Path) -> bool:
        """Interrupts one host of the run at a random moment; returns whether the run had ended before."""
        signum = self._rng.choice(sorted(self._left.elements()))
        victim, anywhere = self._rng.randrange(HOSTS), self._rng.random() < 1 / 4
        delay = self._rng.uniform(0.3, self._seconds) if anywhere else self._rng.uniform(0, LONGEST)
        with Hosts(arguments(workdir), count=HOSTS, devices=DEVICES, folder=workdir / "printed") as hosts:
            if not anywhere:
                hosts.wait_for("epoch", "test accuracy")  # If all was saved, no step is left.
            time.sleep(delay)
            hosts.send(victim, signum)
            sent = time.monotonic()
            results = hosts.results()
        seconds = time.monotonic() - sent
        codes = [result.code for result in results]
        moment = f"{delay:.1f} s after the {'start' if anywhere else 'first line of training'}"
        when = f"{signal.Signals(signum).name} at host {victim} {moment}"
        print(f"{workdir.name}: {when}: exit codes {codes}, {seconds:.1f} s", flush=True)
        if codes == [0] * HOSTS:
            self.counts["ended before"] += 1
            return True
        self._left[signum] -= 1
        self.counts["kills" if signum == signal.SIGKILL else "signals"] += 1
        # Before the hosts have come together, one that is stopped cannot tell the other.
        others = {2, 0} if signum == signal.SIGKILL else {143, 0, 2} if anywhere else {143, 0}
        own = {-signum, 0} if signum == signal.SIGKILL else {143, 0}
        is_right = codes[victim] in own and codes[1 - victim] in others
        self._check(is_right and seconds < PATIENCE, when, results)
        self._check(not any("Traceback" in result.err for result in results), f"{when}: a traceback", results)
        return False

    def _check(self, is_right: bool, what: str, results: Sequence[Result]) -> None:
        if not is_right:
            self.failures.append(f"{what}: {results}")

    def _compare(self, workdir: Path) -> None:
        problems = [] if self.failures else list(differences(self._reference, workdir))
        self.failures += [f"{kind}: {seen}" for kind, seen in problems]
        self.counts["bits equal"] += not self.failures


def main(argv: list[str]) -> int:
    """Runs the campaign, prints its counts, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    left = Counter({signal.SIGKILL: options.kills, signal.SIGTERM: options.signals})
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{name}/cache"
        campaign = Campaign(Path(name), Random(options.seed), left)
        campaign.run()
    for outcome in ("runs", "kills", "signals", "ended before", "bits equal"):
        print(f"  {outcome:<28}{campaign.counts[outcome]:>7,}")
    print("\n".join([*campaign.failures, f"{len(campaign.failures)} failures"]))
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, seed {options.seed}")
    return int(bool(campaign.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
