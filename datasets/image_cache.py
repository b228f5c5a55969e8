"""Keeps decoded images in the cache folder, so that the next start of a training begins at once.

An entry is one file: the pixels of all images, the rest of `Decoded` as JSON, and the checksum and length of
that. Its name says which files it was made of, by their names and contents. The folder `places` remembers
which entry belongs to files at a place, by their stamps, so that none of them is read to find it.
"""

import errno
import fcntl
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, NamedTuple

import numpy as np

import resnet.images
from datasets import decoding
from datasets.cache_files import remove_longest_unused
from datasets.decoding import Decoding, Nowhere, Square, content_digest, decode, decode_file
from datasets.digests import pixel_digest, pixel_digests
from datasets.lazy_images import Images, LazyImages
from datasets.listing import Source
from datasets.pixel_file import PixelFile
from resnet.errors import UserError
from resnet.files import cache_folder, printable, removed_at_exit, write_whole
from resnet.memory import gigabytes, machine_memory

LIMIT = 50 * 10**9  # bytes that all entries may take together, and never more than half of the free disk
SURVEYS_LIMIT = 10**9  # bytes of what is remembered of images that are decoded each time
LENGTH = 8  # bytes at the end of an entry that say how long its JSON is
CHECKSUM = 32  # bytes before them, the SHA-256 of the JSON


class Decoded(NamedTuple):
    """The readable images of files, in their order.

    Attributes:
      images: uint8 `[M, S, S, 3]`, read-only if they lie in the cache. Lazy ones are read from the cache or,
        if they do not fit into it, decoded each time.
      digests: the `pixel_digest` of each image.
      unreadable: what is wrong with a file that is not among them, by its place among the files.
    """

    images: Images
    digests: list[str]
    unreadable: dict[int, str]


def load_or_decode(
    names: Sequence[str], source: Source, square: Square, place: str, *, lazy: bool = False
) -> Decoded:
    """Decodes files, or reads what an earlier start decoded.

    Files with the same stamps at the same place are not read at all. Files that have moved are read and
    recognised, and decoded only if one of them has changed. What is damaged in the cache is decoded anew.
    Where the cache cannot be written, a line says so and the images are in memory alone. Lazy ones are then
    decoded once to learn their digests, which the cache remembers, and each time that they are asked for.

    Args:
      names: of files in `source`.
      source: gives the contents and stamps.
      square: how a picture becomes a square.
      place: where the files are, such as an absolute path.
      lazy: whether the images are not to be held in memory.

    Raises: UserError if the images fit neither into the cache nor into memory.
    """
    folder = cache_folder()
    if folder is None:
        return _survey(names, source, square) if lazy else _decode_in_memory(names, source, square)
    folder = folder / "images"
    # The stamps are taken before the contents, so that a change in between is noticed next time.
    stamps = source.stamps(names)
    pictures = _key(_version(), repr(tuple(square)), *names)
    note = folder / "places" / _key(place, pictures, *(stamps[name] for name in names))
    if lazy and source.square_size == square.size:
        return _survey(names, source, square, folder / "surveys" / note.name)
    entry = _noted_entry(note)
    decoded = _read(entry, square.size, lazy) if entry else None
    if decoded is None and any(folder.glob(f"{pictures}-*.images")):
        content = content_digest(names, source)
        entry = _entry(folder, pictures, content) if content else None
        decoded = _read(entry, square.size, lazy) if entry else None
    if decoded is None:
        entry, decoded = _decode_and_keep(names, source, square, folder, pictures, lazy=lazy)
    if decoded is None:
        return _survey(names, source, square, folder / "surveys" / note.name)
    if entry:
        with suppress(OSError):  # Without the note it is found by its content.
            note.parent.mkdir(exist_ok=True)
            write_whole(note, entry.name)
            os.utime(entry)
    return decoded


def _decode_in_memory(names: Sequence[str], source: Source, square: Square) -> Decoded:
    shape = (len(names), square.size, square.size, 3)
    memory = machine_memory()
    if math.prod(shape) > memory:
        raise UserError(
            f"config.data.image_size: {len(names):,} images of {square.size}x{square.size} pixels take"
            f" {gigabytes(math.prod(shape))}, and the memory is {gigabytes(memory)}; choose a smaller"
            " image_size or store_size, or make room for them on the disk of the cache folder"
        )
    images = np.empty(shape, np.uint8)
    decoding = decode(names, source, square, images)
    digests = _without_gaps(images, decoding, len(names))
    return Decoded(images[: len(digests)], digests, decoding.unreadable)


def _decode_and_keep(
    names: Sequence[str], source: Source, square: Square, folder: Path, pictures: str, *, lazy: bool
) -> tuple[Path | None, Decoded | None]:
    """Decodes files straight into the cache. The entry is None if it could not be kept.

    So are lazy images for which the cache has no room.
    """
    count = len(names)
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(_draft(folder, 3 * count * square.size**2))
            pixels = PixelFile(draft, count, square.size)
            decoding = decode(names, source, square, pixels)
            digests = _without_gaps(pixels, decoding, count)
        except OSError as error:  # Not every file system keeps the room that it has promised.
            _say_not_kept(error.strerror)
            return None, None if lazy else _decode_in_memory(names, source, square)
        decoded = Decoded(pixels.images(len(digests), lazy=lazy), digests, decoding.unreadable)
        if decoding.content is None:
            _say_not_kept("some of the files could not be opened")
            return None, decoded
        entry = _entry(folder, pictures, decoding.content)
        try:
            _finish(draft, decoded)
            os.replace(draft.name, entry)
        except OSError as error:
            _say_not_kept(error.strerror)
            return None, decoded
    return entry, decoded


def _without_gaps(images: np.ndarray | PixelFile, decoding: Decoding, count: int) -> list[str]:
    """Moves the readable ones of `count` images together, in place, and returns their digests."""
    kept = [place for place in range(count) if place not in decoding.unreadable]
    for row, place in enumerate(kept):
        if row != place:
            images[row] = images[place]
    return [decoding.digests[place] for place in kept]


# Images that fit neither into memory nor into the cache


class _Decoder(NamedTuple):
    """Decodes the file at a place again, whose pixels must have the digest that they had at first."""

    names: Sequence[str]
    source: Source
    square: Square
    digests: Sequence[str]

    def __call__(self, place: int) -> np.ndarray:
        """Returns the image, uint8 `[S, S, 3]`.

        Raises: UserError if the file cannot be read any more, or has changed.
        """
        name = self.names[place]
        image = decode_file(name, self.source.content(name), self.square)
        if isinstance(image, UserError):
            raise image
        if pixel_digest(image) != self.digests[place]:
            raise UserError(f"{printable(name)}: has changed since it was first read; start again")
        return image


def _survey(names: Sequence[str], source: Source, square: Square, note: Path | None = None) -> Decoded:
    """Decodes files once to learn which are readable, without keeping pixels; `note` remembers it.

    Raises: UserError if they cannot be read in random order.
    """
    source.content(names[0])  # A tar archive says now that it has no random order.
    learnt = _read_note(note) if note else None
    if learnt is None:
        decoding = decode(names, source, square, Nowhere())
        learnt = decoding.digests, decoding.unreadable
        if note and decoding.content is not None:  # A file that could not be opened is tried again.
            with suppress(OSError):  # Without the note the next start decodes them once more.
                note.parent.mkdir(parents=True, exist_ok=True)
                write_whole(note, _text_with_checksum(*learnt))
                remove_longest_unused(note.parent.iterdir(), SURVEYS_LIMIT)
    digests, unreadable = learnt
    places = np.array([place for place in range(len(names)) if place not in unreadable], int)
    images = LazyImages(_Decoder(names, source, square, digests), places, square.size, decodes=True)
    return Decoded(images, [digests[place] for place in places], unreadable)


def _read_note(note: Path) -> tuple[list[str], dict[int, str]] | None:
    """Reads what `_survey` wrote, or returns None if there is nothing or it is damaged."""
    try:
        with note.open("rb") as file:
            rest = json.loads(_read_text(file))
        os.utime(note)
        return rest["digests"], dict(rest["unreadable"])
    except (OSError, ValueError):
        return None


# Files of the cache


@contextmanager
def _draft(folder: Path, size: int) -> Iterator[IO[bytes]]:
    """Opens a new file of `size` bytes, for which the disk has room.

    It is locked while its process lives, which tells it from one that a kill has left. At the end its name is
    gone, but its pixels stay while they are in use.

    Raises: OSError if there is no room, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    _make_room(folder, size)
    with (
        NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as draft,
        removed_at_exit(Path(draft.name)),
    ):
        fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _reserve(draft, size)
        yield draft


def _reserve(file: IO[bytes], size: int) -> None:
    """Makes a file `size` bytes long. With holes, writing through a memory map would crash on a full disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(2**20)
    for start in range(0, size, len(zeros)):
        file.write(zeros[: size - start])
    file.flush()


def _remove_leftovers(folder: Path) -> None:
    """Removes the drafts of processes that have been killed."""
    for file in folder.glob("*.tmp"):
        with suppress(OSError), file.open("rb") as draft:  # A lock that is refused is an OSError.
            fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()


def _make_room(folder: Path, size: int) -> None:
    """Removes the entries that have been unused the longest, until `size` more bytes are within the limit.

    Raises: OSError if they are above it even so.
    """
    entries = list(folder.glob("*.images"))
    used = sum(file.stat().st_size for file in entries)
    limit = min(LIMIT, (shutil.disk_usage(folder).free + used) // 2)
    if size > limit:
        raise OSError(errno.ENOSPC, f"{gigabytes(size)}, of at most {gigabytes(limit)} in the cache folder")
    remove_longest_unused(entries, limit - size)
    for note in folder.glob("places/*"):
        entry = _noted_entry(note)
        if entry is None or not entry.exists():
            note.unlink(missing_ok=True)


def _finish(draft: IO[bytes], decoded: Decoded) -> None:
    """Writes behind the pixels what else there is.

    Raises: OSError if it cannot be written.
    """
    draft.seek(math.prod(decoded.images.shape))
    draft.write(_text_with_checksum(decoded.digests, decoded.unreadable))
    draft.truncate()
    draft.flush()


def _text_with_checksum(digests: Sequence[str], unreadable: Mapping[int, str]) -> bytes:
    text = json.dumps({"digests": digests, "unreadable": list(unreadable.items())}).encode()
    return text + sha256(text).digest() + len(text).to_bytes(LENGTH, "little")


def _read(entry: Path, size: int, lazy: bool) -> Decoded | None:
    """Reads an entry of images of `size` pixels along a side. What is damaged is removed, and gives None."""
    try:
        with entry.open("rb") as file:
            text = _read_text(file)
            rest = json.loads(text)
            count = len(rest["digests"])
            if os.fstat(file.fileno()).st_size == 3 * count * size**2 + len(text) + CHECKSUM + LENGTH:
                images = PixelFile(file, count, size).images(count, lazy=lazy)
                if pixel_digests(images) == rest["digests"]:
                    return Decoded(images, rest["digests"], dict(rest["unreadable"]))
    except (OSError, ValueError):
        pass
    with suppress(OSError):
        entry.unlink(missing_ok=True)
    return None


def _read_text(file: IO[bytes]) -> bytes:
    """Returns the JSON at the end of an entry.

    Raises: ValueError or OSError if it is damaged.
    """
    file.seek(-LENGTH, os.SEEK_END)
    length = int.from_bytes(file.read(), "little")
    file.seek(-LENGTH - CHECKSUM - length, os.SEEK_END)
    text, checksum = file.read(length), file.read(CHECKSUM)
    if sha256(text).digest() != checksum:
        raise ValueError("the checksum is another")
    return text


def _entry(folder: Path, pictures: str, content: str) -> Path:
    return folder / f"{pictures}-{content[:32]}.images"


def _noted_entry(note: Path) -> Path | None:
    try:
        return note.parent.parent / Path(note.read_text()).name
    except (OSError, ValueError):
        return None


def _key(*parts: str) -> str:
    """Returns a digest of `parts` for the name of a file."""
    return sha256(b"\0".join(map(os.fsencode, parts))).hexdigest()[:32]


@cache
def _version() -> str:
    """Names all that decides over the pixels of a file: our own source and the libraries."""
    sources = (Path(resnet.images.__file__), Path(decoding.__file__))
    libraries = [f"{name} {version(name)}" for name in ("pillow", "pillow-heif")]
    return _key(*(sha256(file.read_bytes()).hexdigest() for file in sources), *libraries)


def _say_not_kept(reason: str | None) -> None:
    print(f"note: the decoded images are not kept for the next start ({reason})", file=sys.stderr, flush=True)
