"""The fuzzer: changes valid files, lets the program read them, and holds it to one rule.

The rule: exit code 0 or 2; no traceback; at most one line a file on stderr, and one at least if it is 2; no
more than 60 seconds and 3 GB; and if there is an answer, it is that of the valid file, or what was changed
may change it. `python -m tests.campaigns.fuzz --case=timm_config:17` repeats a case and shows it.
"""

import glob
import itertools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.campaigns import bombs, flag_values, meanings
from tests.campaigns.answers import Given, NoAnswerError, predictions, same
from tests.campaigns.meanings import MEANINGS
from tests.campaigns.mutations import REPLACEMENTS, changed_places
from tests.campaigns.part import Part, parse_repetition
from tests.campaigns.programs import leftovers
from tests.campaigns.readers import READERS, Reader
from tests.campaigns.seeds import environment, prepare, training_arguments
from tests.campaigns.tally import Failure, InvalidSeedError, Tally, last_line
from tests.campaigns.workers import Answer, Worker
from tests.command_line import ROOT

# Kinds of failures, which are printed though there are none.
KINDS = (
    "traceback", "exit code", "no line", "too many lines", "hang", "memory", "crash", "wrong answer",
    "no answer", "input changed", "left over",
)  # fmt: skip
# Of a run, what else may be replaced by a pipe, a folder, a link.
PLACES_OF_RUNS = (
    "config.json", "summary.json", "metrics.jsonl", "images.tsv", "eval_test.json", "checkpoints",
    "checkpoints/4", "checkpoints/damaged", "checkpoints/4/SHA256SUMS", "checkpoints/4/state", "tensorboard",
    "report", "report/index.html", "export",
)  # fmt: skip
MODES_OF_RUNS = ("predict", "eval", "export", "report", "train")


class Attack(NamedTuple):
    """A case that is ready to run: the arguments, and what must come of them.

    `expected` is `same` if an answer must be that of the valid files, unless the program says more on stderr
    than for these; `other` if it must be another one; `any` if either will do; `refused` if there must be
    none. `source` is what was changed and must stay as it is now, or None.
    """

    arguments: list[str]
    expected: str
    reader: Reader | None = None
    lines: int = 1
    source: Path | None = None
    what: str = ""  # was changed, where it is more than bytes


class Fuzzer(Part):
    """Changes the files in `seeds`, lets the program read them, and judges how that ends."""

    name = "fuzz"
    outcomes = ("cases", "changed files", "exit 0", "exit 2", *KINDS)

    def __init__(self, folder: Path, seeds: Path, seed: int, tally: Tally) -> None:
        super().__init__(folder, seeds, seed, tally)
        self._valid: dict[Reader, tuple[Answer, Any]] = {}
        self.readers = {name: reader for name, reader in READERS.items() if reader.applies(seeds)}

    def cases(self) -> Iterator[str]:
        """Yields the names of cases without end: those of the tables first, then the readers in turn."""
        tables = {
            "meaning": len(MEANINGS),
            "bomb": len(bombs.BOMBS),
            "path": len(PLACES_OF_RUNS) * len(REPLACEMENTS),
        }
        first = [f"{name}:{i}" for name, count in tables.items() for i in range(count)]
        Random(self.seed).shuffle(first)
        weights = {name: reader.weight for name, reader in self.readers.items()} | {"flag": 3}
        later = (
            f"{name}:{round * weight + i}"
            for round in itertools.count()
            for name, weight in weights.items()
            for i in range(weight)
        )
        for case in first:  # One of the tables to three of the readers, so that a short campaign meets both.
            yield case
            yield from itertools.islice(later, 3)
        yield from later

    @contextmanager
    def lane(self) -> Iterator[Callable[[str], list[Failure]]]:
        """Gives the function that runs cases one after the other, in a worker of its own."""
        with Worker(environment(self.folder.parent)) as worker:
            yield lambda case: self.run(case, worker)

    def run(self, case: str, worker: Worker) -> list[Failure]:
        """Runs `case`, counts how it ended, and returns how it broke the rule."""
        folder = self.folder_of(case)
        (folder / "copy").mkdir(parents=True)
        attack = self.attack(case, folder)
        before = _digest(attack.source)
        answer = worker.run(attack.arguments)
        self.tally.count("cases")
        if attack.reader is not None:
            self.tally.count("changed files", attack.reader.copies)
        if answer.code in (0, 2):
            self.tally.count(f"exit {answer.code}")
        problems = list(broken_rules(answer, attack.lines))
        try:
            problems += self._wrong_answers(answer, attack, folder, worker)
        except InvalidSeedError as error:
            problems.append(("valid files refused", str(error)))
        if _digest(attack.source) != before:
            problems.append(("input changed", f"{attack.source} was written"))
        if answer.code == 2 and (left := leftovers(folder)):
            problems.append(("left over", ", ".join(left)))
        return self.judge(case, problems, attack.what)

    def attack(self, case: str, folder: Path) -> Attack:
        """Prepares `case` in the empty `folder`."""
        name, number = case.rsplit(":", 1)
        rng = Random(f"{self.seed}/{case}")
        if name == "meaning":
            return self._meaning(MEANINGS[int(number)], folder)
        if name == "bomb":
            return self._bomb(bombs.BOMBS[int(number)], folder)
        if name == "path":
            return self._replaced(int(number), rng, folder)
        if name == "flag":
            return self._flag(rng, folder)
        return self._changed(self.readers[name], rng, folder)

    def _filled(self, arguments: Sequence[str], folder: Path) -> list[str]:
        """Returns `arguments` with the folders for which names stand in braces."""
        copy = folder / "copy"
        filled: list[str] = []
        for argument in arguments:
            if argument == "{training}":
                filled += training_arguments(self.seeds, copy / "run")
                continue
            for name, path in {"copy": copy, "seeds": self.seeds, "case": folder, "root": ROOT}.items():
                argument = argument.replace(f"{{{name}}}", str(path))
            filled.append(argument)
        return filled

    def _copied(self, reader: Reader, folder: Path) -> list[Path]:
        """Copies the source of `reader` for a case, as often as it says, and returns the copies."""
        source = self.seeds / reader.source
        copies = [folder / "copy" / source.name]
        copies += [folder / "copy" / f"{i}_{source.name}" for i in range(1, reader.copies)]
        for copy in copies:
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy)
        return copies

    def _attack_on(self, reader: Reader, folder: Path, copy: Path, expected: str) -> Attack:
        arguments = self._filled(reader.arguments, folder)
        return Attack(arguments, expected, reader, reader.lines, None if reader.writes else copy)

    def _changed(self, reader: Reader, rng: Random, folder: Path) -> Attack:
        """Changes the file of a reader, or now and then puts something else in its place."""
        outcomes = [self._change(reader, rng, copy) for copy in self._copied(reader, folder)]
        expected = min(outcomes, key=("any", "same").index)
        return self._attack_on(reader, folder, folder / "copy", expected)

    def _change(self, reader: Reader, rng: Random, copy: Path) -> str:
        """Changes a copy of the source of a reader; returns what must come of it, see `Attack`."""
        target = copy
        if reader.target:
            files = [Path(path) for path in sorted(glob.glob(f"{glob.escape(copy)}/{reader.target}"))]
            target = rng.choice(
                sorted(f for path in files for f in ([path] if path.is_file() else path.rglob("*")))
            )
        if rng.random() < 0.04 or not target.is_file():
            replace(target, rng.choice(list(REPLACEMENTS)))
            return "any"
        data = target.read_bytes()
        part = reader.part.get(data)
        changed = reader.change(rng, part)
        target.write_bytes(reader.part.put(data, changed))
        return expected_of(reader, part, changed)

    def _bomb(self, bomb: bombs.Bomb, folder: Path) -> Attack:
        """Writes a small file that is large once it is read."""
        arguments = self._filled(bomb.make(folder, self.seeds), folder)
        return Attack(arguments, "any" if bomb.is_whole else "refused", lines=4, what=bomb.name)

    def _meaning(self, meaning: meanings.Meaning, folder: Path) -> Attack:
        """Changes the meaning of a description, as a table says."""
        reader = self.readers[meaning.reader]
        (copy,) = self._copied(reader, folder)
        target = copy / reader.target if reader.target else copy
        data = target.read_bytes()
        content = meaning.change(json.loads(reader.part.get(data)))
        target.write_bytes(reader.part.put(data, json.dumps(content).encode()))
        return self._attack_on(reader, folder, copy, meaning.expected)._replace(what=meaning.name)

    def _replaced(self, number: int, rng: Random, folder: Path) -> Attack:
        """Puts a pipe, a folder, a link in the place of something in a run."""
        place = PLACES_OF_RUNS[number % len(PLACES_OF_RUNS)]
        kind = list(REPLACEMENTS)[number // len(PLACES_OF_RUNS)]
        mode = rng.choice(MODES_OF_RUNS)
        reader = READERS[f"config_{mode}"]
        (copy,) = self._copied(reader, folder)
        replace(copy / place, kind)
        what = f"{place} is {kind}, --mode={mode}"
        return self._attack_on(reader, folder, copy, "any")._replace(what=what)

    def _flag(self, rng: Random, folder: Path) -> Attack:
        """Trains, or lists layers, with the field of a config set to something strange."""
        flag = flag_values.draw(rng)
        arguments = [*training_arguments(self.seeds, folder / "run"), "--config.num_epochs=1", flag]
        if rng.random() < 0.5:
            arguments.append("--mode=summary")
        return Attack(arguments, "any", lines=4, what=flag[:100])

    def _wrong_answers(
        self, answer: Answer, attack: Attack, folder: Path, worker: Worker
    ) -> Iterator[tuple[str, str]]:
        """Yields what is wrong with an answer, if there is one."""
        if attack.reader is not None and attack.reader.beside and answer.code in (0, 2):
            yield from self._lost_neighbours(answer, attack.reader, worker)
        if answer.code != 0:
            return
        if attack.expected == "refused":
            yield "wrong answer", f"was taken, expected a line: {last_line(answer.out)}"
            return
        if attack.reader is None:
            return
        try:
            given = attack.reader.answer(Given(answer.out, folder / "copy" / "run"))
        except (NoAnswerError, ValueError, KeyError, TypeError) as error:
            yield "no answer", f"{type(error).__name__}: {error}"
            return
        if attack.expected == "any" or given is None:
            return
        valid_answer, valid = self._valid_answer(attack.reader, worker)
        is_told = answer.err != valid_answer.err
        if attack.expected == "same" and not same(given, valid) and not is_told:
            yield "wrong answer", f"{_short(given)}, of the valid file {_short(valid)}"
        if attack.expected == "other" and same(given, valid) and not is_told:
            yield "wrong answer", "what was changed has no effect, and is not refused"

    def _lost_neighbours(self, answer: Answer, reader: Reader, worker: Worker) -> Iterator[tuple[str, str]]:
        """Yields an undamaged picture beside the changed one, if it did not get its answer."""
        name = reader.beside
        lines = [line for line in answer.out.splitlines() if f'/{name}"' in line]
        _, valid = self._valid_answer(reader, worker)
        if not lines or not same(predictions(Given("\n".join(lines), Path()))[name], valid[name]):
            yield "wrong answer", f"{name} beside it was not answered as it is alone"

    def _valid_answer(self, reader: Reader, worker: Worker) -> tuple[Answer, Any]:
        """Returns how the program reads the valid file, with what it says on stderr."""
        if reader not in self._valid:
            folder = Path(tempfile.mkdtemp(prefix="valid", dir=self.folder))
            (folder / "copy").mkdir()
            self._copied(reader, folder)
            answer = worker.run(self._filled(reader.arguments, folder), seconds=600)
            if answer.code != 0:
                raise InvalidSeedError(f"valid files are not read: {' '.join(reader.arguments)}: {answer}")
            self._valid[reader] = answer, reader.answer(Given(answer.out, folder / "copy" / "run"))
        return self._valid[reader]


def broken_rules(answer: Answer, lines: int) -> Iterator[tuple[str, str]]:
    """Yields how `answer` breaks the rule for every command, as kinds and what was seen."""
    printed = answer.err.splitlines()
    if answer.ended:
        yield answer.ended, f"after {answer.seconds:.0f} s with {answer.peak / 2**30:.1f} GB {answer.err}"
    elif "Traceback (most recent call last)" in answer.err + answer.out:
        yield "traceback", last_line(answer.err)
    elif answer.code not in (0, 2):
        yield "exit code", f"{answer.code}: {last_line(answer.err)}"
    elif answer.code == 2 and not printed:
        yield "no line", "exit code 2 without a word"
    elif len(printed) > lines:
        yield "too many lines", f"{len(printed)}, such as {printed[0][:150]!r} and {printed[-1][:150]!r}"


def expected_of(reader: Reader, part: bytes, changed: bytes) -> str:
    """Returns what must come of a change of `part`, see `Attack`."""
    if reader.sealed or part == changed:
        return "same"
    if reader.may_change is None:
        return "any"
    try:
        places = list(changed_places(json.loads(part), json.loads(changed)))
    except (ValueError, RecursionError):
        return "same"
    return "any" if any(re.match(reader.may_change, place) for place in places) else "same"


def replace(path: Path, kind: str) -> None:
    """Puts what `REPLACEMENTS` calls `kind` in the place of `path`."""
    _remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    REPLACEMENTS[kind](path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path | None) -> object:
    """Returns what shows that files changed: their sizes and modification times."""
    if path is None or not path.exists() or not (path.is_dir() or path.is_file()):
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def _short(answer: Any) -> str:
    text = json.dumps(answer, ensure_ascii=False)
    return text if len(text) < 200 else text[:200] + " ..."


def main() -> int:
    """Repeats one case, shows how it ended, and returns 1 if it broke the rule."""
    values = parse_repetition(__doc__, "keras:1234")
    fuzzer = Fuzzer(values.folder / "repeated", prepare(values.folder), values.seed, Tally())
    with Worker(environment(values.folder)) as worker:
        attack = fuzzer.attack(values.case, _emptied(fuzzer.folder / "shown"))
        print("python main.py", *attack.arguments)
        answer = worker.run(attack.arguments)
        print(f"exit code {answer.code}, {answer.seconds:.1f} s, {answer.peak / 2**30:.2f} GB {answer.ended}")
        print(answer.out, answer.err, sep="\n")
        return int(bool(fuzzer.run(values.case, worker)))


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "copy").mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
