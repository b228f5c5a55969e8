"""What the program answered, read from what it printed or wrote, and whether it is an answer at all."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Given(NamedTuple):
    """What a case gave: the lines on stdout, and the folder in which it ran."""

    out: str
    folder: Path


class NoAnswerError(Exception):
    """What was printed is no answer, such as a probability of nan; says why."""


def predictions(given: Given) -> dict[str, Any]:
    """Returns label and probabilities for the name of each picture that was answered."""
    answers = {}
    for line in given.out.splitlines():
        prediction = json.loads(line)
        probabilities = list(prediction["probabilities"].values())
        if not all(0 <= p <= 1 for p in probabilities) or abs(sum(probabilities) - 1) > 1e-3:
            raise NoAnswerError(f"probabilities {probabilities}")
        if prediction["probabilities"][prediction["label"]] < max(probabilities):
            raise NoAnswerError(f"label {prediction['label']!r} is not the most probable one")
        answers[Path(prediction["path"]).name] = [prediction["label"], prediction["probabilities"]]
    if not answers:
        raise NoAnswerError("nothing was answered, with exit code 0")
    return answers


def scores(given: Given) -> Any:
    """Returns the JSON that was printed, all of whose numbers are finite."""
    content = json.loads(given.out)
    for number in _numbers(content):
        if not math.isfinite(number):
            raise NoAnswerError(f"a score is {number}")
    return content


def _numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _numbers(value)
    elif isinstance(content, int | float):
        yield content


def accuracies(given: Given) -> list[str]:
    """Returns the lines with an accuracy, at the end of a training."""
    lines = [line for line in given.out.splitlines() if " accuracy " in line and "(" in line]
    if not lines or any("nan" in line for line in lines):
        raise NoAnswerError(f"the training ended without an accuracy: {lines}")
    return lines


def exported(given: Given) -> dict[str, str]:
    """Returns the digests of the files in `export`."""
    files = [file for file in sorted((given.folder / "export").rglob("*")) if file.is_file()]
    if not files:
        raise NoAnswerError("nothing was exported, with exit code 0")
    return {file.name: _digest(file.read_bytes()) for file in files}


def _digest(data: bytes) -> str:
    """Returns a digest of a safetensors file, in whose header the order of the entries is random."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True)
    return hashlib.sha256(header.encode() + data[8 + size :]).hexdigest()


def page(given: Given) -> None:
    """Checks that there is a report, the same whatever stands in it."""
    if not (given.folder / "report" / "index.html").is_file():
        raise NoAnswerError("no report was written, with exit code 0")


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, numbers within rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7)
    return one == other


Reading = Callable[[Given], Any]
