"""What the parts of a campaign share: their files, their failures, and how one case is repeated."""

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

from tests.campaigns.seeds import prepare
from tests.campaigns.tally import Failure, Tally

DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "resnet_campaign"


class Part:
    """Makes cases in `folder` from the files in `seeds`, runs them and counts how they end in `tally`."""

    name: ClassVar[str]  # of the module
    outcomes: ClassVar[tuple[str, ...]]  # that are counted, which are printed though there are none

    def __init__(self, folder: Path, seeds: Path, seed: int, tally: Tally) -> None:
        self.folder = folder
        self.seeds = seeds
        self.seed = seed
        self.tally = tally
        self.deadline = math.inf  # of `time.monotonic`, after which nothing new begins

    def cases(self) -> Iterator[str]:
        """Yields the names of cases without end."""
        raise NotImplementedError

    def lane(self) -> AbstractContextManager[Callable[[str], list[Failure]]]:
        """Gives the function that runs cases one after the other: `run`, unless it needs more than a case."""
        return nullcontext(self.run)

    def folder_of(self, case: str) -> Path:
        """Returns the path of the folder of `case`. What an earlier run of it left there is removed."""
        folder = self._path(case)
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def _path(self, case: str) -> Path:
        return self.folder / case.replace(":", "_")

    def judge(self, case: str, problems: Iterable[tuple[str, str]], what: str = "") -> list[Failure]:
        """Counts and returns `problems`, kinds and what was seen, as failures of `case`.

        `what` is added to the name of the case. The folder of a case without problems is removed.
        """
        command = (
            f"python -m tests.campaigns.{self.name} --case={case} --seed={self.seed}"
            f" --folder={self.folder.parent}"
        )
        full_name = f"{case} ({what})" if what else case
        failures = [Failure(kind, f"{full_name}: {seen}", command) for kind, seen in problems]
        for failure in failures:
            self.tally.fail(failure)
        if not failures:
            shutil.rmtree(self._path(case), ignore_errors=True)
        return failures


def parse_repetition(description: str, example: str) -> argparse.Namespace:
    """Parses the command line that repeats a case; `example` is the name of one."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--case", required=True, help=f"such as {example}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    return parser.parse_args(sys.argv[1:])


def repeat(make: type[Part], description: str, example: str) -> int:
    """Repeats the case that the command line names, and prints the counts; returns 1 if it failed."""
    values = parse_repetition(description, example)
    part = make(values.folder / f"repeated_{make.name}", prepare(values.folder), values.seed, Tally())
    failures = part.run(values.case)
    print("\n".join(part.tally.lines(part.outcomes)))
    return int(bool(failures))
