"""What a value of a named field may be: its type, its choices, its bounds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from resnet.errors import UserError

TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
Bounds = tuple[float | None, float | None]  # inclusive; None where there is no bound
NO_BOUNDS: Bounds = (None, None)
LARGEST = 1e18  # of a number that is computed with: its square is a float32 too
MAX_SHOWN = 200  # characters of a value in a message


def expected_type(example: Any) -> str:
    """Returns in words what a value of the type of `example` is."""
    return TYPE_NAMES.get(type(example), "a tuple")


def shown(value: Any) -> str:
    """Returns a value as messages show it."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out whole numbers of thousands of digits.
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def check_field(
    name: str, value: Any, example: Any, *, choices: Sequence[Any] | None = None, bounds: Bounds = NO_BOUNDS
) -> None:
    """Checks `value` of the field `name`, whose type is that of `example`.

    A whole number will do where a number is expected.

    Raises:
        UserError: the value has another type, is not among the `choices`, not finite or out of `bounds`.
    """
    is_whole_for_number = isinstance(example, float) and isinstance(value, int)
    if type(value) is not type(example) and (not is_whole_for_number or isinstance(value, bool)):
        raise UserError(f"{name}={shown(value)}: expected {expected_type(example)}")
    if choices is not None and value not in choices:
        raise UserError(f"{name}={shown(value)}: expected one of {', '.join(map(str, choices))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={shown(value)}: expected a finite number")
    low, high = bounds
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limit = f"at least {low}" if high is None else f"{low} to {high}"
        raise UserError(f"{name}={shown(value)}: out of range, expected {limit}")


def check_three_numbers(
    name: str, value: Any, example: tuple[float, ...], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> None:
    """Checks that `value` of the field `name` is a tuple of three finite numbers within `bounds`.

    Raises:
        UserError: it is something else.
    """
    if len(value) != 3 or not all(type(v) in (int, float) and abs(v) < math.inf for v in value):
        raise UserError(f"{name}={shown(value)}: expected 3 numbers, such as {example}")
    low, high = bounds
    if not all(low <= v <= high for v in value):
        raise UserError(f"{name}={shown(value)}: out of range, expected 3 numbers of {low:g} to {high:g}")


def check_fields(
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    choices: Mapping[str, Sequence[Any]],
    bounds: Mapping[str, Bounds],
) -> None:
    """`check_field` for every one of `values`.

    Raises:
        UserError: as `check_field`.
    """
    for name, value in values.items():
        check_field(
            name, value, defaults[name], choices=choices.get(name), bounds=bounds.get(name, NO_BOUNDS)
        )
