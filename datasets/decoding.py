"""Decodes the files of a data set to squares of one size, on all cores."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from datasets.digests import pixel_digest
from datasets.listing import Source
from datasets.threads import map_in_threads
from resnet.errors import UserError
from resnet.images import read_square
from resnet.preprocessing import Fit

Content = tuple[str, bytes | UserError]  # the name of a file, and its content or why it cannot be opened

# Handing a tiny file to a thread takes as long as decoding it, so several go together.
BATCH_BYTES, BATCH_FILES = 2**18, 64


class Square(NamedTuple):
    """How a picture becomes a square; see `resnet.images.fit_square`."""

    size: int
    crop: float
    fit: Fit


class Sink(Protocol):
    """Takes the image of each row: an array, or a file of pixels."""

    def __setitem__(self, row: int, image: np.ndarray, /) -> None: ...


class Nowhere:
    """A `Sink` that keeps nothing."""

    def __setitem__(self, row: int, image: np.ndarray) -> None:
        pass


class Decoding(NamedTuple):
    """What was learnt while files were decoded.

    Attributes:
      content: digest of the names and contents of all files; None if a file could not be opened.
      digests: digest of the pixels of each image, empty for files that are unreadable.
      unreadable: what is wrong with a file, by its place among the files.
    """

    content: str | None
    digests: list[str]
    unreadable: dict[int, str]


def decode(names: Sequence[str], source: Source, square: Square, images: Sink) -> Decoding:
    """Decodes files into the rows of `images`.

    Threads do the work, because Pillow lets go of the interpreter while it decodes and resizes. The pixels
    equal what `resnet.images.read_square` returns. Few files are in memory at a time. A terminal shows a
    progress bar.

    Args:
      names: of files in `source`. A name may occur more than once.
      source: gives the contents, in any order.
      square: how a picture becomes a square of side S.
      images: takes each image, uint8 `[S, S, 3]`. The rows of unreadable files stay as they are.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    contents: dict[str, bytes] = {}
    digests = [""] * len(names)
    unreadable: dict[int, str] = {}

    def decode_batch(batch: Sequence[Content]) -> int:
        for name, content in batch:
            image = decode_file(name, content, square)
            if not isinstance(content, UserError):
                contents[name] = sha256(content).digest()
            for place in places[name]:
                if isinstance(image, UserError):
                    unreadable[place] = str(image)
                else:
                    images[place], digests[place] = image, pixel_digest(image)
        return len(batch)

    batches = _batches(source.contents(list(places)))
    with _progress_bar(len(places), "decoding") as bar:
        for count in map_in_threads(decode_batch, batches):
            bar.update(count)
    is_whole = len(contents) == len(places)
    return Decoding(
        _combined(names, contents) if is_whole else None, digests, dict(sorted(unreadable.items()))
    )


def content_digest(names: Sequence[str], source: Source) -> str | None:
    """Returns the `content` that `decode` would return, without decoding anything."""
    contents: dict[str, bytes] = {}
    unique = list(dict.fromkeys(names))
    with _progress_bar(len(unique), "reading") as bar:
        for name, content in source.contents(unique):
            if isinstance(content, UserError):
                return None
            contents[name] = sha256(content).digest()
            bar.update()
    return _combined(names, contents)


class _File(io.BytesIO):
    """The content of a file, with the name that error messages begin with."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


def decode_file(name: str, content: bytes | UserError, square: Square) -> np.ndarray | UserError:
    """Decodes the content of a file to a square, uint8 `[S, S, 3]`, or returns what is wrong with it."""
    if isinstance(content, UserError):
        return content
    try:
        return read_square(_File(name, content), *square)
    except UserError as error:
        return error


def _batches(contents: Iterable[Content]) -> Iterator[list[Content]]:
    """Gathers small files, so that a batch is worth handing to a thread."""
    batch: list[Content] = []
    size = 0
    for name, content in contents:
        batch.append((name, content))
        size += 0 if isinstance(content, UserError) else len(content)
        if size >= BATCH_BYTES or len(batch) == BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _combined(names: Sequence[str], contents: dict[str, bytes]) -> str:
    """Returns one digest of all names and the digests of their contents."""
    digest = sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0" + contents[name])
    return digest.hexdigest()


def _progress_bar(total: int, what: str) -> tqdm:
    return tqdm(total=total, desc=what, unit="image", dynamic_ncols=True, disable=None, leave=False)
