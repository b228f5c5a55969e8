"""HDF5 that somebody else wrote: read within bounds, and nothing from outside of the file."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from resnet.errors import UserError
from resnet.files import open_file

# Arrays of so many bytes may be nearly nothing in the file: zeros compress well. Larger ones are weights or
# images, of which no compression makes a hundredth.
SMALL_BYTES = 64 * 2**20
MAX_EXPANSION = 100

_NUMBERS = "fiub"  # kinds of dtypes


class Hdf5:
    """An open HDF5 file, whose arrays have `max_bytes` altogether.

    Links to other places, other files' content and objects of Python are never followed. `path` stands in
    messages, which end with `remedy`.
    """

    def __init__(self, file: h5py.File, path: Path, *, max_bytes: int, remedy: str) -> None:
        self.file = file
        self._path = path
        self._max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._remedy = remedy

    def error(self, name: str, found: str, expected: str) -> UserError:
        """Returns the error of an object `name` that is not what was expected."""
        return UserError(f"{self._path}: {name}: found {found}; expected {expected}; {self._remedy}")

    def find(self, name: str) -> h5py.Group | h5py.Dataset | None:
        """Returns the group or array that `name` is the path of, None if there is none.

        Raises:
            UserError: a link to another place or another file is on the way.
        """
        item: h5py.Group | h5py.Dataset = self.file
        for part in filter(None, name.split("/")):
            link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
            if link is None:
                return None
            self._check_link(name, link)
            item = item[part]
        return item

    def check_links(self) -> None:
        """Checks that no link of the file leads to another place.

        Raises:
            UserError: one does.
        """
        links: list[tuple[str, object]] = []
        # What is raised in there becomes an error of h5py.
        self.file.visititems_links(lambda name, link: links.append((name, link)))
        for name, link in links:
            self._check_link(name, link)

    def _check_link(self, name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            raise self.error(name, f"a link to {link.path} in the file {link.filename}", "data of this file")
        if isinstance(link, h5py.SoftLink):
            raise self.error(name, f"a link to {link.path}", "data in its place")

    def check_array(self, name: str, item: h5py.Group | h5py.Dataset | None) -> h5py.Dataset:
        """Returns `item`, which has the path `name`, as an array whose numbers may be read.

        Raises:
            UserError: it is something else, lies outside of the file, or is larger than what the file holds
                or than is allowed.
        """
        if not isinstance(item, h5py.Dataset):
            raise self.error(name, "nothing" if item is None else "a group", "an array")
        if item.is_virtual:
            raise self.error(name, "a virtual data set, whose content is in other files", "data of this file")
        if item.external:
            raise self.error(name, f"content in the file {item.external[0][0]}", "data of this file")
        if item.shape is None:
            raise self.error(name, "an array without data (Empty)", "an array of numbers")
        # Reading any other type makes objects of Python, as many and as large as the file likes.
        if item.dtype.base.kind not in _NUMBERS and not _is_bfloat16(item.dtype):
            raise self.error(name, _described(item.dtype), "an array of numbers")
        self._check_size(name, item)
        return item

    def _check_size(self, name: str, item: h5py.Dataset) -> None:
        declared = math.prod(item.shape) * item.dtype.itemsize
        found = f"{declared:,} bytes in an array of shape {item.shape}"
        if declared > self._max_bytes:
            raise self.error(name, found, f"at most {self._max_bytes:,}")
        stored = item.id.get_storage_size()
        if declared > SMALL_BYTES and declared > MAX_EXPANSION * stored:
            raise self.error(name, f"{found}, of which the file holds {stored:,}", "all of them")
        # HDF5 unpacks a whole chunk for a single number of it.
        chunk, most = math.prod(item.chunks or ()) * item.dtype.itemsize, max(SMALL_BYTES, declared)
        if chunk > most:
            raise self.error(name, f"{found}, in chunks of {chunk:,}", f"chunks of at most {most:,}")

    def read(self, name: str, item: h5py.Group | h5py.Dataset | None = None) -> np.ndarray:
        """Returns the numbers of the array whose path is `name`; `item` is the array, if it is at hand.

        Raises:
            UserError: as `find` and `check_array`, or the arrays that were read have too many bytes.
        """
        array = self.check_array(name, self.find(name) if item is None else item)
        self._bytes_left -= math.prod(array.shape) * array.dtype.itemsize
        if self._bytes_left < 0:
            raise self.error(name, f"more than {self._max_bytes:,} bytes in all arrays", "at most that")
        values: np.ndarray = array[()]
        return (
            np.asarray(values).view(ml_dtypes.bfloat16) if _is_bfloat16(array.dtype) else np.asarray(values)
        )


def _is_bfloat16(dtype: np.dtype) -> bool:
    """Returns whether `dtype` is how Keras writes bfloat16, which HDF5 lacks: as two bytes of any meaning."""
    return dtype.kind == "V" and dtype.names is None and dtype.subdtype is None and dtype.itemsize == 2


def _described(dtype: np.dtype) -> str:
    if h5py.check_string_dtype(dtype) or dtype.kind in "SU":
        return "text"
    if h5py.check_ref_dtype(dtype):
        return "references to other objects"
    if dtype.names:
        return f"a compound type of {', '.join(dtype.names)}"
    return f"dtype {dtype}"


@contextmanager
def open_hdf5(
    path: Path, *, max_bytes: int, remedy: str, content: io.BytesIO | None = None
) -> Iterator[Hdf5]:
    """Opens the HDF5 file `path`, or `content`, of which messages speak as of `path`.

    `max_bytes` and `remedy` are those of `Hdf5`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no ordinary file, locked, no HDF5, truncated or damaged. Errors of h5py while the
            file is open, which depend on the byte that is damaged, end so too.
    """
    if content is None:
        open_file(path).close()  # A pipe or a device would hang HDF5.
    try:
        with h5py.File(path if content is None else content, "r") as file:
            yield Hdf5(file, path, max_bytes=max_bytes, remedy=remedy)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise _unreadable(path, error, remedy) from None


def _unreadable(path: Path, error: Exception, remedy: str) -> UserError:
    """Returns the error of a file that h5py does not read."""
    reason = str(error)
    if "lock file" in reason:
        return UserError(
            f"{path}: is locked, most likely as another program has it open ({reason}); close it there and"
            " try again"
        )
    if "already open for" in reason:
        return UserError(
            f"{path}: is being written by another program, or was left so by one that was stopped; close it"
            " there, or run h5clear --status on it"
        )
    if "signature not found" in reason:
        return UserError(f"{path}: not an HDF5 file; expected HDF5; {remedy}")
    return UserError(f"{path}: HDF5 file truncated or damaged ({reason}); expected a whole file; {remedy}")
