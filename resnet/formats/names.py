"""Tables that translate names and arrays of other frameworks into ours, and back."""

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Transform(NamedTuple):
    """A change of an array's layout, and its exact inverse."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_foreign: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x: x, lambda x: x)
# A convolution's kernel: PyTorch's [O, C, k, k] and ours [k, k, C, O].
OIHW = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# A linear layer's kernel: PyTorch's [O, C] and ours [C, O].
OI = Transform(lambda x: x.T, lambda x: x.T)


class Row(NamedTuple):
    """A row of a table: the name of an array in the other framework, our name, and the change of layout.

    Names may have placeholders. `{stage}`, `{block}` and `{i}` count from 1. Foreign names may count
    differently: `{stage+1}` counts from 2, `{block-1}` from 0, and `{block:a}` uses letters.
    """

    foreign: str
    ours: str
    transform: Transform = SAME


class Format(NamedTuple):
    """A format of another framework: its table of names, and the settings that names and shapes do not show.

    `model` and `data` are the fields of `Architecture` and `Preprocessing` with which its weights were
    trained. `ignored` is a pattern of names that hold no weights. `refused` maps patterns of names that
    belong to other networks to the reason for which they are refused.
    """

    name: str
    rows: tuple[Row, ...]
    model: dict[str, Any]
    data: dict[str, Any]
    ignored: str = r"(?!)"
    refused: dict[str, str] = {}  # noqa: RUF012 (nothing changes it)

    def our_name(self, foreign: str) -> tuple[str, Transform] | None:
        """Returns our name of the array `foreign` and its transform, or None if the table lacks it."""
        for row in self.rows:
            if (name := _translate(foreign, row.foreign, row.ours)) is not None:
                return name, row.transform
        return None

    def foreign_name(self, ours: str) -> tuple[str, Transform] | None:
        """Returns the foreign name of our array `ours` and its transform, or None if the table lacks it."""
        for row in self.rows:
            if (name := _translate(ours, row.ours, row.foreign)) is not None:
                return name, row.transform
        return None


def norm_rows(foreign: str, ours: str, leaves: Iterable[str]) -> tuple[Row, ...]:
    """Returns the rows of a batch norm. `leaves` are the foreign names of scale, bias, mean and variance."""
    return tuple(
        Row(foreign + foreign_leaf, f"{ours}.{our_leaf}")
        for foreign_leaf, our_leaf in zip(leaves, ("scale", "bias", "mean", "var"), strict=True)
    )


def _letter(number: int) -> str:
    return chr(ord("a") + number - 1)


# How a placeholder counts: a pattern for its text, and the functions from text to a number counted from 1 and
# back.
_COUNTS: dict[str, tuple[str, Callable[[str], int], Callable[[int], str]]] = {
    "": (r"[1-9]\d{0,3}", int, str),
    "-1": (r"\d{1,4}", lambda text: int(text) + 1, lambda number: str(number - 1)),
    "+1": (r"[1-9]\d{0,3}", lambda text: int(text) - 1, lambda number: str(number + 1)),
    ":a": (r"[a-z]", lambda text: ord(text) - ord("a") + 1, _letter),
}
_PLACEHOLDER = re.compile(r"\{(stage|block|i)(|-1|\+1|:a)\}")


def _translate(name: str, source: str, target: str) -> str | None:
    """Rewrites `name` by the templates `source` and `target`, or returns None if `source` does not match."""
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
    """Returns a regular expression for `template`, with a named group for each placeholder."""
    pattern = re.escape(template)
    for text, variable, count in _placeholders(template):
        pattern = pattern.replace(re.escape(text), f"(?P<{variable}>{_COUNTS[count][0]})")
    return re.compile(pattern)


@cache
def _placeholders(template: str) -> list[tuple[str, str, str]]:
    """Returns the placeholders of `template`: the whole text, the variable, and how it counts."""
    return [(match[0], match[1], match[2]) for match in _PLACEHOLDER.finditer(template)]
