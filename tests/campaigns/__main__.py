"""A campaign: attacks on the whole program for as long as it is given, from a seed.

`python -m tests.campaigns --minutes=30 --seed=0`, or `make campaign MINUTES=30 SEED=0`. It prints every
failure at once with the command that repeats it, and counts at the end. The exit code is 1 if there was one.
"""

import argparse
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tests.campaigns.faults import Faults
from tests.campaigns.fuzz import Fuzzer
from tests.campaigns.kills import Kills
from tests.campaigns.part import DEFAULT_FOLDER, Part
from tests.campaigns.seeds import prepare
from tests.campaigns.tally import Tally

# The parts and their share of the time.
PARTS: dict[str, tuple[type[Part], float]] = {
    part.name: (part, share) for part, share in ((Faults, 0.1), (Fuzzer, 0.4), (Kills, 0.5))
}


def attack(part: Part, deadline: float, lanes: int) -> None:
    """Runs cases of `part` in `lanes` at once until `deadline`, of `time.monotonic`; in each one at least.

    A part without cases would have no failures.
    """
    cases, lock = part.cases(), Lock()
    part.deadline = deadline

    def run_lane() -> None:
        with part.lane() as run:
            while True:
                with lock:
                    case = next(cases)
                run(case)
                if time.monotonic() > deadline:
                    return

    with ThreadPoolExecutor(lanes) as pool:
        for future in [pool.submit(run_lane) for _ in range(lanes)]:
            future.result()


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, such as kills,fuzz")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="cases at once")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs a campaign, prints its counts, and returns the exit code."""
    values = parse(arguments)
    started, names = time.monotonic(), values.parts.split(",")
    end = started + 60 * values.minutes
    seeds = prepare(values.folder.absolute())
    print(f"seeds in {seeds}: {time.monotonic() - started:.0f} s", flush=True)
    shares = {name: PARTS[name][1] for name in names}
    tallies = {}
    for name in names:
        make, share = PARTS[name]
        folder = seeds.parent / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tally = tallies[name] = Tally()
        began = time.monotonic()
        rest = sum(shares[later] for later in names[names.index(name) :])
        attack(make(folder, seeds, values.seed, tally), began + (end - began) * share / rest, values.lanes)
        minutes = (time.monotonic() - began) / 60
        rate = tally.counts[make.outcomes[0]] / minutes
        print(f"{name}: {minutes:.1f} minutes, {rate:.0f} {make.outcomes[0]} a minute, seed {values.seed}")
        print("\n".join(tally.lines(make.outcomes)), flush=True)
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    for failure in failures:
        print(f"{failure.kind}: {failure.seen}\n  {failure.command}")
    print(f"{len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
