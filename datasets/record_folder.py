"""A folder of records: the files of a data set in a few large shards, which can be read in any order.

`python -m datasets.records` packs one. It holds

- `records.json`: the shards with their sizes and SHA-256 checksums, the checksum of the index, and for
  resized images their side and fit;
- `index.csv`: a line for each image with its path, label, split, and the shard and record that hold it;
- `shard-00000.array_record` and so on, in the ArrayRecord format
  (https://github.com/google/array_record). A record is the content of a file.
"""

import csv
import io
import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from resnet.errors import UserError
from resnet.files import printable, read_file
from resnet.json_files import Schema, read_json
from resnet.preprocessing import CHOICES

SETTINGS_FILE = "records.json"
PACKING_FILE = "packing.json"  # what is packed into a folder that is not finished
INDEX_FILE = "index.csv"
COLUMNS = ("path", "label", "split", "shard", "record")
MAX_INDEX_SIZE = 2**30  # bytes
PACK_AGAIN = "pack it again with: python -m datasets.records"

_SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SHARD: Schema = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "pattern": r"^shard-\d{5,}\.array_record$"},
        "bytes": {"type": "integer", "minimum": 0},
        "records": {"type": "integer", "minimum": 1},
        "sha256": _SHA256,
    },
    "required": ["file", "bytes", "records", "sha256"],
}
SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "version": {"const": 1},
        "size": {"type": "integer", "minimum": 0, "maximum": 4096},
        "fit": {"enum": list(CHOICES["fit"])},
        "index_sha256": _SHA256,
        "shards": {"type": "array", "items": _SHARD},
    },
    "required": ["version", "size", "index_sha256", "shards"],
}


class Place(NamedTuple):
    """Where the content of a file lies: the numbers of a shard and of a record in it."""

    shard: int
    record: int


class RecordFolder:
    """A folder that `python -m datasets.records` has packed; a `datasets.listing.Source`.

    `shards` are those that `records.json` lists. `square_size` is the side of the images in pixels if they
    were resized when they were packed, else 0; `fit` is how they became squares then, else "".
    """

    def __init__(self, path: str) -> None:
        """Reads which shards and images there are.

        Raises:
          UserError: it is no packed folder, incomplete or damaged.
        """
        self.path = path
        try:
            settings = read_json(Path(path, SETTINGS_FILE), SCHEMA)
        except FileNotFoundError:
            raise UserError(
                f"{printable(path)}: holds no {SETTINGS_FILE}; expected a folder that was packed to the end"
            ) from None
        except UserError as error:
            raise UserError(f"{error}; {PACK_AGAIN}") from None
        if settings["size"] and "fit" not in settings:
            raise UserError(
                f"{printable(os.path.join(path, SETTINGS_FILE))}: does not say how its images became squares,"
                f" expected a fit beside the size; {PACK_AGAIN}"
            )
        self.square_size: int = settings["size"]
        self.fit: str = settings["fit"] if self.square_size else ""
        self.shards: list[dict[str, Any]] = settings["shards"]
        for shard in self.shards:
            self._check_size(shard)
        self._index_sha256: str = settings["index_sha256"]
        self._places = self._read_index()

    def locate(self, path: str, table: str) -> str | None:
        """Returns the name of the file that the table `table` calls `path`, or None if there is none."""
        return path if path in self._places else None

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        """Returns the checksum of the shard of each file, and its place there."""
        places = {name: self._places[name] for name in names}
        return {name: f"{self.shards[p.shard]['sha256']} {p.record}" for name, p in places.items()}

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes | UserError]]:
        """Yields names and contents, or what is wrong, in the order of the shards."""
        for name in sorted(set(names), key=lambda name: self._places.get(name, Place(-1, -1))):
            yield name, self.content(name)

    def content(self, name: str) -> bytes | UserError:
        """Returns the content of a file, or what is wrong with its shard."""
        if name == INDEX_FILE:
            return self._index()
        place = self._places[name]
        file = os.path.join(self.path, self.shards[place.shard]["file"])
        try:
            (content,) = _reader(file).read([place.record])
        except Exception as error:  # The reader of ArrayRecord raises nearly anything.
            return damaged_file(file, str(error))
        return content

    def _index(self) -> bytes:
        file = Path(self.path, INDEX_FILE)
        content = read_file(file, MAX_INDEX_SIZE)
        if sha256(content).hexdigest() != self._index_sha256:
            raise damaged_file(str(file), "its checksum is another")
        return content

    def _read_index(self) -> dict[str, Place]:
        file = os.path.join(self.path, INDEX_FILE)
        places: dict[str, Place] = {}
        try:
            rows = csv.DictReader(io.StringIO(self._index().decode(), newline=""), strict=True)
            for row in rows:
                place = Place(int(row["shard"]), int(row["record"]))
                if not 0 <= place.shard < len(self.shards):
                    raise ValueError(f"there is no shard {place.shard}")
                if not 0 <= place.record < self.shards[place.shard]["records"]:
                    raise ValueError(f"shard {place.shard} has no record {place.record}")
                places[row["path"]] = place
        except FileNotFoundError:
            raise UserError(f"{printable(file)}: is missing; {PACK_AGAIN}") from None
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(
                f"{printable(file)}: is damaged ({error}), expected the columns {', '.join(COLUMNS)};"
                f" {PACK_AGAIN}"
            ) from None
        return places

    def _check_size(self, shard: Mapping[str, Any]) -> None:
        file = os.path.join(self.path, shard["file"])
        try:
            size = os.stat(file).st_size
        except OSError as error:
            raise UserError(f"{printable(file)}: cannot be read ({error.strerror}); {PACK_AGAIN}") from None
        if size != shard["bytes"]:
            raise damaged_file(file, f"it has {size:,} bytes, expected {shard['bytes']:,}")


def damaged_file(file: str, reason: str) -> UserError:
    """Returns the error for a shard or an index that is damaged."""
    reason = reason.splitlines()[0] if reason else "it cannot be read"
    return UserError(
        f"{printable(file)}: is damaged ({printable(reason)}); copy it again, or delete it and {PACK_AGAIN}"
    )


def is_record_folder(path: str) -> bool:
    """Returns whether `python -m datasets.records` has packed the folder at `path`.

    Raises:
      UserError: it has not finished that.
    """
    if os.path.isfile(os.path.join(path, SETTINGS_FILE)):
        return True
    if os.path.isfile(os.path.join(path, PACKING_FILE)):
        raise UserError(f"{printable(path)}: is not packed to the end; run the same command again")
    return False


@cache
def _reader(file: str) -> Any:
    """Opens a shard, once in each process. Threads may share it."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(file, options="readahead_buffer_size:0")
