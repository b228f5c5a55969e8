"""How messages put things."""

from collections.abc import Sequence


def first_of(names: Sequence[str], shown: int, separator: str = ", ") -> str:
    """Returns the first `shown` names and how many there are besides, such as `a, b and 1,200 more`."""
    more = len(names) - shown
    return separator.join(names[:shown]) + (f" and {more:,} more" if more > 0 else "")
