"""Images as raw pixels in a file, read and written without mapping it into memory."""

import os
from typing import IO

import numpy as np

from datasets.lazy_images import Images, LazyImages
from resnet.errors import UserError


class PixelFile:
    """`count` images, uint8 `[S, S, 3]` with S = `size`, that lie one after another at the start of a file.

    It stays open when `file` is closed or loses its name. Threads may share it.
    """

    def __init__(self, file: IO[bytes], count: int, size: int) -> None:
        self._file = os.fdopen(os.dup(file.fileno()), "rb")
        self._name = file.name
        self.shape = (count, size, size, 3)
        self._bytes = 3 * size * size

    def __setitem__(self, row: int, image: np.ndarray) -> None:
        """Writes the image at `row`.

        Raises: OSError if the disk is full.
        """
        content, offset = memoryview(np.ascontiguousarray(image)).cast("B"), row * self._bytes
        while content:
            written = os.pwrite(self._file.fileno(), content, offset)
            content, offset = content[written:], offset + written

    def __getitem__(self, row: int) -> np.ndarray:
        """Reads the image at `row`.

        Raises: UserError if the file ends before it.
        """
        content = os.pread(self._file.fileno(), self._bytes, row * self._bytes)
        if len(content) < self._bytes:
            raise UserError(f"{self._name}: was cut off while it was in use; start again")
        return np.frombuffer(content, np.uint8).reshape(self.shape[1:])

    def images(self, count: int, *, lazy: bool) -> Images:
        """Returns the first `count` images: lazy ones, or one read-only array that the file is mapped to."""
        if lazy:
            return LazyImages(self.__getitem__, np.arange(count), self.shape[1])
        if not count:  # Nothing cannot be mapped.
            return np.empty((0, *self.shape[1:]), np.uint8)
        return np.memmap(self._file, np.uint8, "r", shape=(count, *self.shape[1:])).view(np.ndarray)
