"""`--mode=features`: writes the features of picture files."""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from modes.flags import (
    CHECKPOINT,
    RAW,
    WEIGHTS,
    Command,
    Flag,
    Mode,
    require_run_or_weights_alone,
)
from resnet.files import cannot_write, replacement

LAYER = Flag("layer", "The layer whose output is written, such as stage3.block2.", "pooled")
POOL = Flag("pool", "What to do over positions: mean, maximum, or keep them.", "avg", ("avg", "max", "none"))


def run(command: Command) -> int:
    """Writes features to `features_<layer>.npz` of the workdir; 2 if a picture could not be read.

    Another pooling than the default is in the name too, as in `features_<layer>_max.npz`.
    """
    from evaluation.picture_files import UnreadableFiles, picture_files, read_in_batches
    from resnet.files import printable

    classifier, _ = command.load_classifier()
    layer, pool = command["layer"], command["pool"]
    classifier.check_layer(layer, pool)
    unreadable = UnreadableFiles()
    files = picture_files(command.arguments, unreadable)
    suffix = "" if pool == POOL.default else f"_{pool}"
    file = command.run_folder / f"features_{layer}{suffix}.npz"
    with FeaturesWriter(file) as writer:
        for names, images in read_in_batches(files, classifier.prepare, unreadable):
            features = classifier.features(np.stack(images), layer, pool)
            writer.write(list(map(printable, names)), features)
    print(f"written: {file} ({len(writer.paths)} images)")
    return unreadable.exit_code


class FeaturesWriter:
    """Writes features and the paths of their pictures to an `.npz` as they come, whole or not at all.

    It is a context manager. The file has `features` float32 [N, ...] and `paths` [N].
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
            raise cannot_write(self.path, error) from None
        return self

    def write(self, paths: Sequence[str], features: np.ndarray) -> None:
        """Adds the `features` [N, ...] of the pictures at `paths` [N]."""
        self.paths += paths
        self._shape = features.shape[1:]
        try:
            self._rows.write(np.ascontiguousarray(features, np.float32).tobytes())
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def __exit__(self, kind: type | None, *error: object) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as write_error:
            raise cannot_write(self.path, write_error) from None
        finally:
            with suppress(OSError):  # Rows that are left in its buffer are no longer wanted.
                self._rows.close()

    def _finish(self) -> None:
        # NumPy's header comes first and holds the number of rows, which is known only now.
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.paths), *self._shape)}
        self._rows.seek(0)
        with replacement(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                shutil.copyfileobj(self._rows, entry, 2**20)
            with archive.open("paths.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(self.paths, dtype=str))


MODE = Mode(
    help="Write the features of picture files as .npz.",
    usage=(
        "--mode=features --workdir=runs/signs --layer=stage3 photos/",
        "--mode=features --weights=resnet50.safetensors --workdir=features photos/",
    ),
    flags=(WEIGHTS, LAYER, POOL, CHECKPOINT, RAW),
    check=require_run_or_weights_alone,
    run=run,
    takes="pictures",
)
