"""From the names in a foreign file to ours and back: tables of rows whose names have placeholders."""

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Transform(NamedTuple):
    """How an array changes on its way in, and the exact inverse on its way out."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_foreign: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x: x, lambda x: x)
# A convolution's kernel: PyTorch's [O, C, k, k] and ours [k, k, C, O].
OIHW = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# A linear layer's kernel: PyTorch's [O, C] and ours [C, O].
OI = Transform(lambda x: x.T, lambda x: x.T)


class Row(NamedTuple):
    """One kind of array: its name there, its name here, and its transform.

    Names may have placeholders: `{stage}`, `{block}` and `{i}` count from 1; the foreign name may also
    count otherwise: `{stage+1}`, `{block-1}`, or `{block:a}` by letters.
    """

    foreign: str
    ours: str
    transform: Transform = SAME


class Format(NamedTuple):
    """A foreign format: its table, and what names and shapes do not tell.

    `model` and `data` are the fields of `config.model` and `config.data` that its weights were trained
    with; `ignored` matches names that hold no weights, `refused` those of other networks: pattern and reason.
    """

    name: str
    rows: tuple[Row, ...]
    model: dict[str, Any]
    data: dict[str, Any]
    ignored: str = r"(?!)"
    refused: dict[str, str] = {}  # noqa: RUF012 (never changed)

    def our_name(self, foreign: str) -> tuple[str, Transform] | None:
        """Our name of the array that is called `foreign` there, None if the table has none."""
        for row in self.rows:
            if (name := _translate(foreign, row.foreign, row.ours)) is not None:
                return name, row.transform
        return None

    def foreign_name(self, ours: str) -> tuple[str, Transform] | None:
        """The foreign name of the array that we call `ours`, None if the table has none."""
        for row in self.rows:
            if (name := _translate(ours, row.ours, row.foreign)) is not None:
                return name, row.transform
        return None


def norm_rows(foreign: str, ours: str, leaves: Iterable[str]) -> tuple[Row, ...]:
    """The four rows of a batch norm; `leaves` are their foreign names for scale, bias, mean and variance."""
    return tuple(
        Row(foreign + there, f"{ours}.{here}")
        for there, here in zip(leaves, ("scale", "bias", "mean", "var"), strict=True)
    )


def _letter(number: int) -> str:
    return chr(ord("a") + number - 1)


# What a placeholder's text looks like, and the number counted from 1 that it stands for, and back.
_COUNTS: dict[str, tuple[str, Callable[[str], int], Callable[[int], str]]] = {
    "": (r"[1-9]\d*", int, str),
    "-1": (r"\d+", lambda text: int(text) + 1, lambda number: str(number - 1)),
    "+1": (r"[1-9]\d*", lambda text: int(text) - 1, lambda number: str(number + 1)),
    ":a": (r"[a-z]", lambda text: ord(text) - ord("a") + 1, _letter),
}
_PLACEHOLDER = re.compile(r"\{(stage|block|i)(|-1|\+1|:a)\}")


def _translate(name: str, source: str, target: str) -> str | None:
    """`name`, which the pattern `source` describes, as `target` has it; None if it does not."""
    match = _pattern(source).fullmatch(name)
    if match is None:
        return None
    counts = {variable: count for _, variable, count in _placeholders(source)}
    numbers = {variable: _COUNTS[counts[variable]][1](text) for variable, text in match.groupdict().items()}
    for text, variable, count in _placeholders(target):
        target = target.replace(text, _COUNTS[count][2](numbers[variable]))
    return target


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for text, variable, count in _placeholders(template):
        pattern = pattern.replace(re.escape(text), f"(?P<{variable}>{_COUNTS[count][0]})")
    return re.compile(pattern)


@cache
def _placeholders(template: str) -> list[tuple[str, str, str]]:
    return [(match[0], match[1], match[2]) for match in _PLACEHOLDER.finditer(template)]
