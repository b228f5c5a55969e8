"""SIGNS: photographs of hands showing the digits 0-5, read from their pair of HDF5 files.

Each file holds `{train,test}_set_x` uint8 `[N, H, W, 3]`, `{train,test}_set_y` integer `[N]` and
`list_classes` integer `[C]`. Where no copy is named or found, the original pair is downloaded.
"""

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pooch
import requests

from datasets.types import Dataset, Split
from errors import UserError

DEFAULT_DIR = Path("data/signs")
TRAIN_FILE = "train_signs.h5"
TEST_FILE = "test_signs.h5"

# Three public copies of the original pair, each pinned to a commit, in the order they are tried.
_GITHUB = "https://raw.githubusercontent.com"
_MIRRORS = (
    f"{_GITHUB}/berlintofind/Image-classification-models-with-Deep-Residual-Networks"
    "/a08882649f4a5c93a0955394aa7a714bc4114ff3/datasets",
    f"{_GITHUB}/DrAlexSanz/CNN-in-TF/5f0da09b23d8920755c2d0087debebdfe3ce8bf0",
    f"{_GITHUB}/itsayushthada/Convolution-Neural-Network/fd28f400f7ac0605657efcfd4f9dc3e354e0abf1/datasets",
)
URLS = {name: tuple(f"{m}/{name}" for m in _MIRRORS) for name in (TRAIN_FILE, TEST_FILE)}
GIT_BLOBS = {
    TRAIN_FILE: "15904fbeb148848aea50d42c96a539b7bd11c4e5",
    TEST_FILE: "ac34131b87c829b90f5c0913f90d509f1c1f8ed0",
}
CONNECT_TIMEOUT = 10.0  # seconds until a mirror that does not answer is given up
READ_TIMEOUT = 30.0  # seconds of silence until one that stopped sending is given up

_REMEDY = (
    "put the original file in its place, name another folder by data.dir or SIGNS_DIR, "
    f"or delete the file from {DEFAULT_DIR} to have it downloaded again"
)


def load(data_dir: str | None = None) -> Dataset:
    """Reads SIGNS from `data_dir`, else from `$SIGNS_DIR`, else from `data/signs`.

    Only `data/signs` is filled by download, and only with the files it lacks: a folder that the
    user named is taken as it is. Files already there are checked for the schema, not their bytes.

    Returns: images uint8 `[N, H, W, 3]`, labels int32 `[N]` (1080 train and 120 test images of
    64x64 pixels in the original), class names "0" to "5".

    Raises: UserError where a file is missing, cannot be downloaded, read, or breaks the schema.
    """
    named = data_dir or os.environ.get("SIGNS_DIR")
    if named:
        folder = Path(os.path.expanduser(named))  # Path's own raises on an unknown user
    else:
        folder = DEFAULT_DIR
        for name in (TRAIN_FILE, TEST_FILE):
            if not os.path.exists(folder / name):  # Path's own raises on a closed folder
                download(name, folder)

    train, train_classes = _read(folder / TRAIN_FILE, "train")
    test, test_classes = _read(folder / TEST_FILE, "test")
    if train_classes != test_classes:
        raise _schema_error(
            folder / TEST_FILE,
            "list_classes",
            f"{list(test_classes)}",
            f"the {list(train_classes)} of {TRAIN_FILE}",
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise _schema_error(
            folder / TEST_FILE,
            "test_set_x",
            f"images of shape {test.images.shape[1:]}",
            f"the {train.images.shape[1:]} of {TRAIN_FILE}",
        )
    return Dataset(train, test, train_classes)


def git_blob_id(content: bytes) -> str:
    """The id (40 hex digits) under which git stores a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def download(name: str, folder: Path) -> None:
    """Downloads one of the two files into `folder` from the first mirror that has the right bytes.

    The file gets its name only when whole and checked; a cut connection or a kill leaves nothing
    under that name.

    Raises: UserError if no mirror delivers the file or `folder` cannot be written.
    """
    # A bar redrawn in a log file is noise.
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the same folder, so that the final rename stays on one file system.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            partial = Path(scratch) / name
            for url in URLS[name]:
                try:
                    fetch(url, str(partial), None)
                except requests.RequestException as error:
                    failures.append(_short_reason(error))
                    continue
                found = git_blob_id(partial.read_bytes())
                if found == GIT_BLOBS[name]:
                    os.replace(partial, folder / name)
                    return
                failures.append(f"wrong content, git blob {found[:8]} not {GIT_BLOBS[name][:8]}")
    except OSError as error:
        raise UserError(
            f"SIGNS could not be downloaded: {folder / name} cannot be written "
            f"({error.strerror or error}); make {folder} writable, set SIGNS_DIR to a folder that "
            f"holds {TRAIN_FILE} and {TEST_FILE}, or run `make demo`, which needs no download"
        ) from error
    with suppress(OSError):  # It holds files if an earlier download succeeded.
        folder.rmdir()
    raise UserError(
        f"SIGNS could not be downloaded: {name} from {len(failures)} mirrors "
        f"({'; '.join(failures)}); set SIGNS_DIR to a folder that holds {TRAIN_FILE} and "
        f"{TEST_FILE}, or run `make demo`, which needs no download"
    )


def _short_reason(error: requests.RequestException) -> str:
    match error:
        case requests.HTTPError():
            return f"HTTP {error.response.status_code}"
        case requests.Timeout():
            return "timed out"
        case requests.exceptions.ChunkedEncodingError():
            return "connection cut"
        case requests.ConnectionError():
            return "no connection"
        case _:
            return type(error).__name__


def _read(path: Path, prefix: str) -> tuple[Split, tuple[str, ...]]:
    """Reads and checks one file, whose keys start with `prefix`: its split and class names."""
    try:
        # The plain open tells missing, unreadable and folder apart; HDF5's own messages do not.
        with path.open("rb") as probe:
            size = os.fstat(probe.fileno()).st_size
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: file not found; expected {TRAIN_FILE} and {TEST_FILE} in {path.parent}; "
            "name the folder that holds them by data.dir or SIGNS_DIR, or leave both empty to have "
            f"them downloaded to {DEFAULT_DIR}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a readable HDF5 file; {_REMEDY}"
        ) from error
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file ({size} bytes); expected HDF5; {_REMEDY}")
    try:
        with h5py.File(path, "r") as file:
            return _read_arrays(file, path, prefix)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        # What h5py raises depends on which byte is damaged; nothing else of ours runs in there.
        raise UserError(
            f"{path}: HDF5 file truncated or damaged ({size} bytes; {error}); "
            f"expected a whole file; {_REMEDY}"
        ) from error


def _read_arrays(file: h5py.File, path: Path, prefix: str) -> tuple[Split, tuple[str, ...]]:
    """The split and the class names of an open file, checked against the schema."""
    images_key, labels_key = f"{prefix}_set_x", f"{prefix}_set_y"
    # Shapes and types are checked before anything is read, so that no object type is ever decoded.
    images = _dataset(file, path, images_key)
    if images.dtype != np.uint8:
        raise _schema_error(path, images_key, f"dtype {images.dtype}", "dtype uint8")
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise _schema_error(path, images_key, f"shape {images.shape}", "shape [N, H, W, 3]")
    if len(images) == 0:
        raise _schema_error(path, images_key, "no images", "at least one")

    labels = _dataset(file, path, labels_key)
    if labels.dtype.kind not in "iu":
        raise _schema_error(path, labels_key, f"dtype {labels.dtype}", "an integer dtype")
    if labels.ndim != 1:
        raise _schema_error(path, labels_key, f"shape {labels.shape}", "shape [N]")
    if len(labels) != len(images):
        raise _schema_error(
            path,
            labels_key,
            f"{len(labels)} labels",
            f"{len(images)}, as many as images in {images_key}",
        )

    classes = _dataset(file, path, "list_classes")
    if classes.dtype.kind not in "iu" or classes.ndim != 1 or len(classes) == 0:
        raise _schema_error(
            path,
            "list_classes",
            f"dtype {classes.dtype}, shape {classes.shape}",
            "an integer dtype, shape [C]",
        )

    label_values = labels[:]
    outside = np.flatnonzero((label_values < 0) | (label_values >= len(classes)))
    if len(outside):
        raise _schema_error(
            path,
            labels_key,
            f"label {label_values[outside[0]]} at index {outside[0]}",
            f"labels from 0 to {len(classes) - 1}, the {len(classes)} classes of list_classes",
        )
    class_names = tuple(str(c) for c in classes[:])
    return Split(images[:], label_values.astype(np.int32)), class_names


def _dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    if key not in file:
        keys = ", ".join(sorted(file)) or "none"
        raise _schema_error(path, key, f"no such key (keys: {keys})", "an array")
    item = file[key]
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise _schema_error(path, key, f"{type(item).__name__.lower()} without data", "an array")
    return item


def _schema_error(path: Path, key: str, found: str, expected: str) -> UserError:
    return UserError(f"{path}: {key}: found {found}; expected {expected}; {_REMEDY}")
