"""Checksums of the files in a folder, in the format of the sha256sum command, sealed and synced to disk."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from resnet.errors import UserError
from resnet.files import open_file, read_file

CHECKSUMS = "SHA256SUMS"
MAX_BYTES = 16 * 2**20  # of the list
ORBAX_METADATA = "_CHECKPOINT_METADATA"
# Files that Orbax writes once the list is there; nothing is read from them.
WRITTEN_LATER = (ORBAX_METADATA, "commit_success.txt")
# The last lines of the list: sha256sum takes them for comments. What has grown shows without being read.
TOTAL = "# bytes in all: "
SEAL = "# SHA-256 of the lines above: "


class DamageError(Exception):
    """Says in a few words what is wrong with a folder."""


def write_checksums(folder: Path) -> None:
    """Lists all files of `folder` in its `SHA256SUMS`, and syncs all of it to disk."""
    names = sorted(_listed(folder))
    lines = "".join(f"{_sha256(folder / name)}  {name}\n" for name in names)
    lines += f"{TOTAL}{_total_size(folder, names)}\n"
    (folder / CHECKSUMS).write_text(f"{lines}{SEAL}{_digest(lines)}\n")
    for parent in [*folder.rglob("*"), folder, folder.parent]:
        _sync(parent)


def check_files(folder: Path, part: str = "") -> None:
    """Checks that `folder` holds exactly the files in its `SHA256SUMS`, unchanged, and no pipes or links.

    Only files whose path begins with `part` are read. Lists without a seal or a total come from older
    versions.

    Raises:
        DamageError: says what differs.
    """
    digests, total = _read_list(folder)
    found = _listed(folder)
    for name in sorted(found - digests.keys()):
        raise DamageError(f"{name} is not in {CHECKSUMS}")
    for name in sorted(digests.keys() - found):
        raise DamageError(f"{name} is missing")
    if not digests:
        raise DamageError("it holds nothing")
    if total and total != str(size := _total_size(folder, digests)):
        raise DamageError(f"its files have {size:,} bytes, expected {total}")
    for name, digest in digests.items():
        if name.startswith(part) and _sha256(folder / name) != digest:
            raise DamageError(f"{name} has changed since it was saved")


def _listed(folder: Path) -> set[str]:
    """Returns the files whose checksums count. Hidden files are those of file managers and file systems."""
    names = {str(file.relative_to(folder)) for file in _walk(folder) if not file.name.startswith(".")}
    return names - {CHECKSUMS, *WRITTEN_LATER}


def _walk(folder: Path) -> Iterator[Path]:
    """Yields all files below `folder`.

    Raises:
        DamageError: something there is neither a file nor a folder, or cannot be read.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise DamageError(f"{folder.name} is no folder")
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name)
            elif entry.is_file(follow_symlinks=False):
                yield folder / entry.name
            else:
                raise DamageError(f"{entry.name} is neither a file nor a folder")
    except OSError as error:
        raise DamageError(str(error)) from None


def _total_size(folder: Path, names: Iterable[str]) -> int:
    return sum((folder / name).stat().st_size for name in names)


def _read_list(folder: Path) -> tuple[dict[str, str], str]:
    """Returns the digest of every file by its path in `folder`, and their bytes, "" if unknown."""
    try:
        text = read_file(folder / CHECKSUMS, MAX_BYTES).decode()
    except FileNotFoundError:
        raise DamageError(f"{CHECKSUMS} is missing") from None
    except UnicodeDecodeError:
        raise DamageError(f"{CHECKSUMS} is not UTF-8") from None
    except UserError as error:
        raise DamageError(str(error)) from None
    lines, seal, digest = text.partition(SEAL)
    if seal and digest.rstrip("\n") != _digest(lines):
        raise DamageError(f"{CHECKSUMS} has changed since it was saved")
    lines, _, total = lines.partition(TOTAL)
    digests = {}
    for line in lines.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator:
            raise DamageError(f"{CHECKSUMS} is cut off")
        digests[name] = digest
    return digests, total.strip()


def _digest(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(file: Path) -> str:
    try:
        with open_file(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, UserError) as error:
        raise DamageError(str(error)) from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
