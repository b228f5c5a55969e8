"""Tables of text for the terminal."""

from collections.abc import Sequence

from tabulate import tabulate


def table(rows: Sequence[Sequence[str]], headers: Sequence[str], alignment: str) -> str:
    """Returns a table of `rows`; `alignment` has a letter for each column, `l` left and `r` right."""
    sides = {"l": "left", "r": "right"}
    # Class names and paths may look like numbers; they are not.
    return tabulate(rows, headers, disable_numparse=True, colalign=[sides[letter] for letter in alignment])
