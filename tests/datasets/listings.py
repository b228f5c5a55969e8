"""Image files in memory, as a listing, for the tests of what reads them."""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.listing import ImageFile, Listing
from resnet.errors import UserError

BROKEN = b"These are not pixels."


class MemorySource:
    """Files by name. `reads` counts how often each was read; a file given as None cannot be opened."""

    square_size = 0

    def __init__(self, files: Mapping[str, bytes | None]) -> None:
        self.files = dict(files)
        self.times = dict.fromkeys(files, 0)
        self.reads: Counter[str] = Counter()

    def edit(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self.times[name] += 1

    def stamps(self, names: Collection[str]) -> dict[str, str]:
        return {name: f"{len(self.files[name] or b'')} {self.times[name]}" for name in names}

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes | UserError]]:
        assert len(set(names)) == len(names)
        for name in sorted(names, reverse=True):
            yield name, self.content(name)

    def content(self, name: str) -> bytes | UserError:
        self.reads[name] += 1
        return self.files[name] or UserError(f"{name}: cannot be read")


def noisy(seed: int, height: int = 12, width: int = 12) -> np.ndarray:
    """Returns random pixels, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def listing_of(source: MemorySource, layout: str = "a folder for each class") -> Listing:
    """Lists `[SPLIT/]CLASS/NAME`, in the order of the files."""
    names = list(source.files)
    classes = sorted({Path(name).parts[-2] for name in names})
    files = []
    for name in names:
        *split, class_name, _ = Path(name).parts
        files.append(ImageFile(name, classes.index(class_name), split[0] if split else ""))
    return Listing(source, tuple(files), tuple(classes), layout, {"hidden": 3})
