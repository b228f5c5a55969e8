"""Keeps folders of cached files within a limit."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def remove_longest_unused(files: Iterable[Path], limit: int) -> None:
    """Removes the files that have been unused the longest, until the others take at most `limit` bytes.

    Their times of change say when they were used. Another process may remove some of them meanwhile.

    Raises: OSError if one cannot be removed.
    """
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append((file.stat(), file))
    kept = 0
    for status, file in sorted(found, key=lambda entry: entry[0].st_mtime, reverse=True):
        kept += status.st_size
        if kept > limit:
            file.unlink(missing_ok=True)
