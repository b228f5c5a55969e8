"""SIGNS: photographs of hands that show the digits 0 to 5, read from a pair of HDF5 files.

Each file holds `{train,test}_set_x` uint8 `[N, H, W, 3]`, `{train,test}_set_y` integer `[N]` and
`list_classes` integer `[C]`. Where the user has no copy, the original pair is downloaded.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pooch
import requests

from datasets.types import Dataset, Split
from resnet.errors import UserError
from resnet.hdf5_files import Hdf5, open_hdf5

T = TypeVar("T")

CLASS_NAMES = ("0", "1", "2", "3", "4", "5")  # of the original files
DEFAULT_DIR = Path("data/signs")
TRAIN_FILE = "train_signs.h5"
TEST_FILE = "test_signs.h5"

# Three public copies of the original pair, each at a fixed commit, in the order in which they are tried.
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
CONNECT_TIMEOUT = 10.0  # seconds to wait for a mirror that does not answer
READ_TIMEOUT = 30.0  # seconds to wait for a mirror that has stopped sending
MAX_BYTES = 2**30  # of images, which a training keeps in memory; the original has 13 million
MAX_CLASSES = 10_000

_REMEDY = (
    "put the original file in its place, name another folder by config.data.dir or SIGNS_DIR, "
    f"or delete the file from {DEFAULT_DIR} to have it downloaded again"
)


def load(data_dir: str | None = None) -> Dataset:
    """Reads SIGNS from `data_dir`, else from `$SIGNS_DIR`, else from `data/signs`.

    Files that `data/signs` lacks are downloaded. A folder that the user names is never written to. Files that
    are there are checked against the schema, whatever their bytes.

    Returns: images uint8 `[N, H, W, 3]`, labels int32 `[N]`, class names. The original files hold 1080
    training and 120 test images of 64x64 pixels with the classes "0" to "5".

    Raises: UserError for a file that is missing, cannot be downloaded or read, or breaks the schema.
    """
    folder = _named_folder(data_dir)
    if folder is None:
        folder = DEFAULT_DIR
        for name in (TRAIN_FILE, TEST_FILE):
            if not os.path.exists(folder / name):  # Path's own method raises on a closed folder.
                download(name, folder)

    train, train_classes = _read_split(folder / TRAIN_FILE, "train")
    test, test_classes = _read_split(folder / TEST_FILE, "test")
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


def class_names(data_dir: str | None = None) -> tuple[str, ...]:
    """Returns the class names in the training file that `load` would read, without reading images.

    Without that file they are the class names of the original, and nothing is downloaded.

    Raises: UserError for a file that cannot be read or breaks the schema.
    """
    path = (_named_folder(data_dir) or DEFAULT_DIR) / TRAIN_FILE
    if not os.path.lexists(path):
        return CLASS_NAMES
    return _read(path, lambda file: _class_names(file, path))


def _named_folder(data_dir: str | None) -> Path | None:
    """Returns the folder that the config or else the environment names."""
    name = data_dir or os.environ.get("SIGNS_DIR")
    return Path(os.path.expanduser(name)) if name else None  # Path's own method raises on an unknown user.


def git_blob_id(content: bytes) -> str:
    """Returns the id, 40 hexadecimal digits, under which git stores a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def download(name: str, folder: Path) -> None:
    """Downloads one of the two files into `folder` from the first mirror that has the right bytes.

    The file gets its name once it is whole and checked. A cut connection or a kill leaves nothing under that
    name.

    Raises: UserError if no mirror delivers the file or `folder` cannot be written.
    """
    # In a log file, a progress bar would be noise.
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the file is renamed within one file system.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            partial = Path(scratch) / name
            for url in URLS[name]:
                try:
                    fetch(url, str(partial), None)
                except requests.RequestException as error:
                    failures.append(_short_reason(error))
                    continue
                blob = git_blob_id(partial.read_bytes())
                if blob == GIT_BLOBS[name]:
                    os.replace(partial, folder / name)
                    return
                failures.append(f"wrong content, git blob {blob[:8]} not {GIT_BLOBS[name][:8]}")
    except OSError as error:
        raise UserError(
            f"SIGNS could not be downloaded: {folder / name} cannot be written "
            f"({error.strerror or error}); make {folder} writable, set SIGNS_DIR to a folder that "
            f"holds {TRAIN_FILE} and {TEST_FILE}, or run `make demo`, which needs no download"
        ) from error
    with suppress(OSError):  # It is not empty if an earlier download succeeded.
        folder.rmdir()
    raise UserError(
        f"SIGNS could not be downloaded: {name} from {len(failures)} mirrors "
        f"({'; '.join(failures)}); set SIGNS_DIR to a folder that holds {TRAIN_FILE} and "
        f"{TEST_FILE}, or run `make demo`, which needs no download"
    )


def _short_reason(error: requests.RequestException) -> str:
    """Returns why a mirror failed, in two or three words."""
    match error:
        case requests.HTTPError(response=requests.Response(status_code=status)):
            return f"HTTP {status}"
        case requests.Timeout():
            return "timed out"
        case requests.exceptions.ChunkedEncodingError():
            return "connection cut"
        case requests.ConnectionError():
            return "no connection"
        case _:
            return type(error).__name__


def _read(path: Path, read: Callable[[Hdf5], T]) -> T:
    """Returns what `read` gets from the file. Whatever is wrong with the file is a UserError."""
    try:
        with open_hdf5(path, max_bytes=MAX_BYTES, remedy=_REMEDY) as file:
            return read(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: file not found; expected {TRAIN_FILE} and {TEST_FILE} in {path.parent}; name the "
            "folder that holds them by config.data.dir or SIGNS_DIR, or leave both empty to have them "
            f"downloaded to {DEFAULT_DIR}"
        ) from error


def _read_split(path: Path, prefix: str) -> tuple[Split, tuple[str, ...]]:
    """Reads one file, whose keys start with `prefix`: its split and its class names."""
    return _read(path, lambda file: _checked_split(file, path, prefix))


def _checked_split(file: Hdf5, path: Path, prefix: str) -> tuple[Split, tuple[str, ...]]:
    """Returns the split and the class names in an open file, after checking them against the schema."""
    # Shapes and types are checked before anything is read, so that no Python object is ever decoded.
    images = _images(file, path, f"{prefix}_set_x")
    labels_key = f"{prefix}_set_y"
    labels = _labels(file, path, labels_key)
    if len(labels) != len(images):
        raise _schema_error(
            path,
            labels_key,
            f"{len(labels)} labels",
            f"{len(images)}, as many as images in {prefix}_set_x",
        )
    names = _class_names(file, path)
    values = labels[:]
    outside = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(outside):
        raise _schema_error(
            path,
            labels_key,
            f"label {values[outside[0]]} at index {outside[0]}",
            f"labels from 0 to {len(names) - 1}, the {len(names)} classes of list_classes",
        )
    return Split(images[:], values.astype(np.int32)), names


def _images(file: Hdf5, path: Path, key: str) -> h5py.Dataset:
    images = _dataset(file, path, key)
    if images.dtype != np.uint8:
        raise _schema_error(path, key, f"dtype {images.dtype}", "dtype uint8")
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise _schema_error(path, key, f"shape {images.shape}", "shape [N, H, W, 3]")
    if len(images) == 0:
        raise _schema_error(path, key, "no images", "at least one")
    return images


def _labels(file: Hdf5, path: Path, key: str) -> h5py.Dataset:
    labels = _dataset(file, path, key)
    if labels.dtype.kind not in "iu":
        raise _schema_error(path, key, f"dtype {labels.dtype}", "an integer dtype")
    if labels.ndim != 1:
        raise _schema_error(path, key, f"shape {labels.shape}", "shape [N]")
    return labels


def _class_names(file: Hdf5, path: Path) -> tuple[str, ...]:
    classes = _dataset(file, path, "list_classes")
    if classes.dtype.kind not in "iu" or classes.ndim != 1 or len(classes) == 0:
        raise _schema_error(
            path,
            "list_classes",
            f"dtype {classes.dtype}, shape {classes.shape}",
            "an integer dtype, shape [C]",
        )
    if len(classes) > MAX_CLASSES:
        raise _schema_error(path, "list_classes", f"{len(classes):,} classes", f"at most {MAX_CLASSES:,}")
    names = tuple(str(number) for number in classes[:])
    if len(set(names)) < len(names):
        raise _schema_error(path, "list_classes", f"the same class twice in {list(names)}", "each once")
    return names


def _dataset(file: Hdf5, path: Path, key: str) -> h5py.Dataset:
    """Returns the array under `key`, not yet read."""
    item = file.find(key)
    if item is None:
        keys = ", ".join(sorted(file.file)) or "none"
        raise _schema_error(path, key, f"no such key (keys: {keys})", "an array")
    return file.check_array(key, item)


def _schema_error(path: Path, key: str, found: str, expected: str) -> UserError:
    return UserError(f"{path}: {key}: found {found}; expected {expected}; {_REMEDY}")
