"""Picture files that users name: found, read in batches, and reported if they cannot be read."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet.classifier import BATCH_SIZE
from resnet.errors import UserError
from resnet.files import local_path
from resnet.images import find_images


class UnreadableFiles:
    """Prints what is wrong with a file when called; `exit_code` is 2 once there was one."""

    exit_code = 0

    def __call__(self, error: UserError) -> None:
        self.exit_code = 2
        print(f"error: {error}", file=sys.stderr, flush=True)


def read_in_batches(
    files: Iterable[Path], read: Callable[[Path], np.ndarray], report: Callable[[UserError], None]
) -> Iterator[tuple[list[Path], list[np.ndarray]]]:
    """Yields files with what `read` returns for them, in their order, and never holds more than a batch.

    Files that cannot be read are left out, and `report` is called with the error.
    """
    readable: list[Path] = []
    images: list[np.ndarray] = []
    for file in files:
        try:
            images.append(read(file))
        except UserError as error:
            report(error)
            continue
        readable.append(file)
        if len(images) == BATCH_SIZE:
            yield readable, images
            readable, images = [], []
    if images:
        yield readable, images


def picture_files(paths: Sequence[str], report: Callable[[UserError], None]) -> Iterator[Path]:
    """Yields the picture files that `paths` name.

    `report` is called for a path that has none, and once for a folder with pictures that cannot be read.
    """
    for path in paths:
        try:
            yield from find_images([local_path(path)], report)
        except UserError as error:
            report(error)
