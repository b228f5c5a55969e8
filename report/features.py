"""Features of pictures, written as they are computed."""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from errors import UserError


class FeaturesWriter:
    """Writes rows of features and the paths that they are of to an `.npz`, as they come, whole or not at all.

    A context manager; the file has `features` float32 [N, ...] and `paths` [N].
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths: list[str] = []
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> "FeaturesWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = tempfile.TemporaryFile(dir=self.path.parent)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); name a folder that can"
            ) from None
        return self

    def write(self, paths: Sequence[str], features: np.ndarray) -> None:
        """Adds rows: `features` [N, ...] of `paths` [N]."""
        self.paths += paths
        self._shape = features.shape[1:]
        self._rows.write(np.ascontiguousarray(features, np.float32).tobytes())

    def __exit__(self, kind: type | None, *error: object) -> None:
        with self._rows:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        # NumPy's header comes first and says how many rows there are, which only now is known.
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.paths), *self._shape)}
        temporary = self.path.with_name(self.path.name + ".tmp")
        self._rows.seek(0)
        with zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                shutil.copyfileobj(self._rows, entry, 2**20)
            with archive.open("paths.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(self.paths, dtype=str))
        temporary.replace(self.path)
