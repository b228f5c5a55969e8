"""Faults of the environment: full disks, quotas, read-only folders, streams that are closed, full or ASCII.

Each meets each mode in a process of its own. The rule: the exit code is 0 or 2 (141 when the reader of the
output has gone), one line is all that is said, no temporary file stays, and once the fault is over the same
command does its work. `python -m tests.campaigns.faults --case=full_disk:train:3` repeats a case.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.campaigns.kills import different_arrays
from tests.campaigns.part import Part, repeat
from tests.campaigns.patience import Patience
from tests.campaigns.programs import leftovers
from tests.campaigns.seeds import environment, training_arguments
from tests.campaigns.tally import Failure, Tally, last_line
from tests.command_line import ROOT

MODES = ("train", "eval", "report", "predict", "features", "export", "audit")
WORK = 120.0  # seconds of a processor, the most that a program may take
MEGABYTE = 2**20

KINDS = (
    "traceback",
    "wrong code",
    "too many lines",
    "hang",
    "left over",
    "not done",
    "not resumed",
    "other bits",
)


class Fault(NamedTuple):
    """What is wrong with the environment: how the shell starts the program, and which exit codes are right.

    `{program}` stands for the program and `{size}` for a number of kilobytes that is drawn. `place` says what
    is special about the folder of the run. `done` if the work is done all the same.
    """

    shell: str = "{program}"
    codes: tuple[int, ...] = (0,)
    place: str = ""  # full: a small file system, read_only: one that cannot be written
    done: bool = True
    variables: Mapping[str, str] = {}
    lines: int = 1


ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
FAULTS: dict[str, Fault] = {
    "full_disk": Fault(place="full", codes=(0, 2), done=False),
    "quota": Fault("ulimit -f {size}; {program}", codes=(0, 2), done=False),
    "read_only": Fault(place="read_only", codes=(0, 2), done=False),
    "closed_stdout": Fault("{program} >&-", codes=(0, 2)),
    "closed_stderr": Fault("{program} 2>&-"),
    "closed_stdin": Fault("{program} <&-"),
    "closed_streams": Fault("{program} <&- >&- 2>&-", codes=(0, 2)),
    "full_stdout": Fault("{program} >/dev/full", codes=(0, 2)),
    "full_stderr": Fault("{program} 2>/dev/full"),
    "gone_reader": Fault(
        "{program} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}", codes=(0, 141), done=False
    ),
    "ascii": Fault(variables=ASCII),
    "ascii_locale": Fault(
        codes=(0, 2), done=False, variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
}
# What a mode leaves in the folder of the run.
RESULTS = {
    "train": "summary.json",
    "eval": "eval_test.json",
    "report": "report/index.html",
    "features": "features_pooled.npz",
    "export": "export/resnet.safetensors",
    "audit": "audit.json",
}


class Faults(Part):
    """Runs modes in faulty environments, with the run in `seeds`."""

    name = "faults"
    outcomes = ("faults", "exit 0", "exit 2", "exit 141", "not permitted", *KINDS)

    def __init__(self, folder: Path, seeds: Path, seed: int, tally: Tally) -> None:
        super().__init__(folder, seeds, seed, tally)
        self.environment = environment(folder.parent)

    def cases(self) -> Iterator[str]:
        """Yields the names of cases without end: each fault with each mode, in a random order, then again."""
        for number in count():
            pairs = [f"{fault}:{mode}:{number}" for fault in FAULTS for mode in MODES]
            Random(f"{self.seed}/{number}").shuffle(pairs)
            yield from pairs

    def run(self, case: str) -> list[Failure]:
        """Runs `case`, counts how it ended, and returns what went wrong."""
        name, mode, _ = case.split(":")
        fault, rng = FAULTS[name], Random(f"{self.seed}/{case}")
        folder = self.folder_of(case)
        size = int(2 ** rng.uniform(3, 12))  # kilobytes: from less than a summary to more than a run
        try:
            with mounted(folder, fault.place, size, lambda place: self._prepare(mode, place)) as workdir:
                problems = self._problems(fault, mode, workdir, size)
        except PermissionError as error:
            self.tally.count("not permitted")
            print(f"skipped {case}: {error}", file=sys.stderr)
            return []
        self.tally.count("faults")
        return self.judge(case, problems, f"{size} KB")

    def _prepare(self, mode: str, place: Path) -> None:
        """Fills the folder of the run: nothing to train, otherwise the finished run without its results."""
        if mode == "train":
            return
        for name in ("config.json", "summary.json", "metrics.jsonl", "images.tsv"):
            shutil.copy2(self.seeds / "run" / name, place / name)
        shutil.copytree(self.seeds / "run" / "checkpoints", place / "checkpoints")

    def arguments(self, mode: str, workdir: Path) -> list[str]:
        """Returns the arguments of main.py that run `mode` on the run in `workdir`."""
        pictures = [str(self.seeds / "pictures" / name) for name in ("good.png", "picture.jpg")]
        if mode == "train":
            return training_arguments(self.seeds, workdir)
        return [
            f"--mode={mode}",
            f"--workdir={workdir}",
            *(pictures if mode in ("predict", "features") else []),
        ]

    def _problems(self, fault: Fault, mode: str, workdir: Path, size: int) -> list[tuple[str, str]]:
        """Runs the mode under the fault and then without it; returns what went wrong."""
        arguments = self.arguments(mode, workdir)
        ended = self._shell(fault.shell.format(program=_program(arguments), size=size), fault.variables)
        if ended is None:
            return [("hang", "did nothing any more, or too much")]
        code, err = ended
        if code in (0, 2, 141):
            self.tally.count(f"exit {code}")
        problems = list(broken_rules(fault, code, err))
        result = workdir / RESULTS.get(mode, "")
        if not problems and fault.done and code in (0, 2) and not result.exists():
            problems.append(("not done", f"{result.name} is missing, exit code {code}"))
        if left := leftovers(workdir):
            problems.append(("left over", ", ".join(left[:3])))
        if fault.place == "full":
            _mount("-o", "remount,size=1g", str(workdir.parent))
        if fault.place != "read_only":
            problems += self._after(mode, workdir)
        return problems

    def _after(self, mode: str, workdir: Path) -> Iterator[tuple[str, str]]:
        """Yields what is wrong once the fault is over: the same command does its work, to the same bits."""
        ended = self._shell(_program(self.arguments(mode, workdir)), {})
        if ended is None or ended[0] != 0:
            yield "not resumed", f"exit code {ended and ended[0]}: {last_line(ended[1] if ended else '')}"
        elif mode == "train" and (names := different_arrays(self.seeds / "run", workdir)):
            yield "other bits", ", ".join(names[:5])

    def _shell(self, script: str, variables: Mapping[str, str]) -> tuple[int, str] | None:
        """Runs a script of bash; returns its exit code and what it said on stderr, or None if it hung."""
        with tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=ROOT,
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
            patience = Patience(process.pid, WORK)
            while process.poll() is None:
                if patience.is_over():
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return None
                time.sleep(0.2)
            err.seek(0)
            return process.returncode, err.read().decode(errors="replace")


def _program(arguments: list[str]) -> str:
    return shlex.join([sys.executable, "main.py", *arguments])


def broken_rules(fault: Fault, code: int, err: str) -> Iterator[tuple[str, str]]:
    """Yields how a program broke the rule under `fault`, as kinds and what was seen."""
    lines = [line for line in err.splitlines() if not line.startswith("images: ")]  # a note, no complaint
    if "Traceback" in err or "Exception ignored" in err:
        yield "traceback", last_line(err)
    elif code not in fault.codes:
        yield "wrong code", f"{code}, expected {' or '.join(map(str, fault.codes))}: {last_line(err)}"
    elif len(lines) > fault.lines:
        yield "too many lines", f"{len(lines)}, such as {lines[0][:150]!r} and {lines[-1][:150]!r}"
    elif code == 2 and not lines and "2>" not in fault.shell:
        yield "wrong code", "2 without a word"


@contextmanager
def mounted(folder: Path, kind: str, size: int, fill: Callable[[Path], None]) -> Iterator[Path]:
    """Gives the folder of a run that `fill` has filled, on a file system of its own if `kind` says so.

    Raises:
        PermissionError: nothing can be mounted here.
    """
    workdir = folder / "disk" / "run"
    workdir.parent.mkdir(parents=True)
    if not kind:
        workdir.mkdir()
        fill(workdir)
        yield workdir
        return
    _mount("-t", "tmpfs", "-o", "size=1g", "campaign", str(workdir.parent))
    try:
        workdir.mkdir()
        fill(workdir)
        used = sum(file.stat().st_blocks * 512 for file in workdir.rglob("*")) // 1024
        small = f"remount,size={used + size}k" if kind == "full" else "remount,ro"
        _mount("-o", small, str(workdir.parent))
        yield workdir
    finally:
        subprocess.run(["umount", "--lazy", str(workdir.parent)], check=False)


def _mount(*arguments: str) -> None:
    result = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise PermissionError(f"mount is not permitted: {last_line(result.stderr)}")


if __name__ == "__main__":
    sys.exit(repeat(Faults, __doc__, "full_disk:train:3"))
