"""Packs a data set into a few large shards: `python -m datasets.records SRC OUT`.

SRC is a folder, an archive or a table of images, as for `--config.data.dir`. Training takes OUT in its place,
and sees the same images in the same order. The same command goes on where it was interrupted.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.decoding import Content, Square, decode_file
from datasets.listing import Listing, check_classes, list_images
from datasets.record_folder import (
    COLUMNS,
    INDEX_FILE,
    MAX_INDEX_SIZE,
    PACKING_FILE,
    SETTINGS_FILE,
    Place,
    RecordFolder,
    damaged_file,
)
from datasets.threads import map_in_threads
from resnet.errors import UserError, exit_code
from resnet.files import cannot_write, printable, write_whole
from resnet.json_files import Schema, read_json, read_optional_json
from resnet.preprocessing import CHOICES

SHARD_BYTES = 2**28  # of the contents in a shard; the last file may go beyond it
# Of each record alone, so that one is read at a time. Pictures are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"
LAST_PLACE = Place(99_999, 9_999_999)  # as long in the index as any place will be

_PACKED_SHARD: Schema = {
    "type": "object",
    "properties": {"shard": {"type": "object"}, "names": {"type": "array", "items": {"type": "string"}}},
    "required": ["shard", "names"],
}
_PACKING: Schema = {"type": "object", "properties": {"source": {"type": "string"}}, "required": ["source"]}


class Packed(NamedTuple):
    """A finished shard: its file, size, number of records and checksum, and the names of its records."""

    shard: dict[str, Any]
    names: list[str]


def pack(source: str, out: Path, square: Square | None = None, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Packs the images at `source` into the folder `out`, or goes on where that was interrupted.

    With a `square` each image is decoded, resized to it and stored without loss. Otherwise files are stored
    as they are. Files that cannot be read are left out.

    Returns: what is wrong with each file that was left out.

    Raises:
      UserError: there are no images at `source`, or too many for an index, or none of a class's training
        images can be read. Or `out` cannot be written, holds something else, or lies inside of `source`.
    """
    listing = list_images(source)
    _check_is_outside(out, source)
    _check_index(listing, source)
    names = [file.name for file in listing.files]
    try:
        done = _begin(listing, out, square)
        packed = {name for shard in done for name in shard.names}
        contents = listing.source.contents([name for name in names if name not in packed])
        errors: dict[str, str] = {}
        with tqdm(total=len(names), initial=len(packed), unit="image", disable=None, leave=False) as bar:
            for batch in _shards(_prepared(contents, square), shard_bytes, errors, bar):
                done.append(_write_shard(out, len(done), batch))
        # The index names no class without images, so the others would have other labels.
        left_out = {i: errors[file.name] for i, file in enumerate(listing.files) if file.name in errors}
        check_classes(listing, left_out, source)
        _finish(out, done, listing, square)
    except OSError as error:
        raise cannot_write(out, error) from None
    return list(errors.values())


def check(out: Path) -> int:
    """Reads all of a packed folder, and returns its number of shards.

    Raises:
      UserError: it is no packed folder, incomplete, or a shard is not what was packed.
    """
    folder = RecordFolder(str(out))
    for shard in tqdm(folder.shards, unit="shard", disable=None, leave=False):
        file = out / shard["file"]
        try:
            is_whole = _checksum(file) == shard["sha256"]
        except OSError as error:
            raise damaged_file(str(file), str(error.strerror)) from None
        if not is_whole:
            raise damaged_file(str(file), "its checksum is another")
    return len(folder.shards)


def _check_is_outside(out: Path, source: str) -> None:
    """Raises UserError if `out` lies inside of `source`, where its shards would be files of the source."""
    if Path(os.path.realpath(source)) in Path(os.path.realpath(out)).parents:
        raise UserError(
            f"{printable(out)}: lies inside of {printable(source)}, expected a folder outside,"
            " as it would be taken for a class; choose one beside it"
        )


def _check_index(listing: Listing, source: str) -> None:
    """Raises UserError for names that are not UTF-8, and for an index that would be too large to be read."""
    names = [file.name for file in listing.files]
    try:
        "\n".join(names).encode()
    except UnicodeEncodeError:
        wrong = next(name for name in names if printable(name) != name)
        raise UserError(f"{printable(wrong)}: its name is not UTF-8, expected UTF-8; rename it") from None
    if len(_index(listing, dict.fromkeys(names, LAST_PLACE))) > MAX_INDEX_SIZE:
        raise UserError(
            f"{printable(source)}: the index of its {len(names):,} images would take more than"
            f" {MAX_INDEX_SIZE:,} bytes, expected at most that; pack a part of them"
        )


def _begin(listing: Listing, out: Path, square: Square | None) -> list[Packed]:
    """Makes the folder `out`, and returns the shards that an earlier start has finished."""
    stamps = listing.source.stamps([file.name for file in listing.files])
    identity = repr([square, listing.class_names, listing.files, stamps])
    packing = {"source": sha256(identity.encode()).hexdigest()}
    if (out / SETTINGS_FILE).exists():
        raise UserError(f"{out}: is packed already; choose another folder, or delete it first")
    if not (out / PACKING_FILE).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: holds other files, expected a new or an empty folder; choose another")
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / PACKING_FILE, json.dumps(packing))
    elif read_json(out / PACKING_FILE, _PACKING) != packing:
        raise UserError(
            f"{out}: holds a part of other images, or of the same with other settings; choose another folder,"
            " or delete it first"
        )
    done = []
    while note := _read_note(out, len(done)):
        done.append(note)
    return done


def _read_note(out: Path, number: int) -> Packed | None:
    """Returns the shard of that number if an earlier start has finished it and it is whole."""
    note = read_optional_json(out / _note_name(number), _PACKED_SHARD, "its shard is packed again")
    if note is None:
        return None
    file = out / _shard_name(number)
    if not file.exists() or _checksum(file) != note["shard"].get("sha256"):
        return None
    return Packed(note["shard"], note["names"])


def _prepared(contents: Iterator[Content], square: Square | None) -> Iterator[Content]:
    """Yields what is stored of each file: its content or, resized to `square`, a bitmap."""
    if square is None:
        yield from contents
        return

    def bitmap(content: Content) -> Content:
        name, image = content[0], decode_file(*content, square)
        return name, image if isinstance(image, UserError) else _bitmap(image)

    yield from map_in_threads(bitmap, contents)


def _bitmap(image: np.ndarray) -> bytes:
    """Returns a picture as a BMP file, which is read faster than any other."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "BMP")
    return file.getvalue()


def _shards(
    contents: Iterator[Content], shard_bytes: int, errors: dict[str, str], bar: tqdm
) -> Iterator[list[tuple[str, bytes]]]:
    """Yields contents in groups of about `shard_bytes`, and adds to `errors` what is wrong with others.

    `errors` are by the names of the files.
    """
    group: list[tuple[str, bytes]] = []
    size = 0
    for name, content in contents:
        bar.update()
        if isinstance(content, UserError):
            errors[name] = str(content)
            continue
        group.append((name, content))
        size += len(content)
        if size >= shard_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_shard(out: Path, number: int, contents: Sequence[tuple[str, bytes]]) -> Packed:
    """Writes a shard and then the note that it is finished."""
    from array_record.python.array_record_module import ArrayRecordWriter

    file = out / _shard_name(number)
    draft = file.with_suffix(".tmp")
    try:
        writer = ArrayRecordWriter(str(draft), WRITER_OPTIONS)
        for _, content in contents:
            writer.write(content)
        writer.close()
    except RuntimeError as error:  # Its errors of the disk are no OSError.
        draft.unlink(missing_ok=True)
        raise OSError(0, str(error).splitlines()[0]) from None
    shard = {
        "file": file.name,
        "bytes": draft.stat().st_size,
        "records": len(contents),
        "sha256": _checksum(draft),
    }
    packed = Packed(shard, [name for name, _ in contents])
    os.replace(draft, file)
    write_whole(out / _note_name(number), json.dumps(packed._asdict()))
    return packed


def _finish(out: Path, done: Sequence[Packed], listing: Listing, square: Square | None) -> None:
    """Writes the index and the settings, without which the folder is not complete, and removes the notes."""
    places = {
        name: Place(shard, record)
        for shard, packed in enumerate(done)
        for record, name in enumerate(packed.names)
    }
    index = _index(listing, places)
    write_whole(out / INDEX_FILE, index)
    settings: Mapping[str, Any] = {
        "version": 1,
        "size": square.size if square else 0,
        **({"fit": square.fit} if square else {}),
        "index_sha256": sha256(index).hexdigest(),
        "shards": [packed.shard for packed in done],
    }
    write_whole(out / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    for number in range(len(done)):
        (out / _note_name(number)).unlink(missing_ok=True)
    (out / PACKING_FILE).unlink(missing_ok=True)


def _index(listing: Listing, places: Mapping[str, Place]) -> bytes:
    """Returns the table of the images that have a place."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for file in listing.files:
        if file.name in places:
            writer.writerow([file.name, listing.class_names[file.label], file.split, *places[file.name]])
    return table.getvalue().encode()


def _shard_name(number: int) -> str:
    return f"shard-{number:05}.array_record"


def _note_name(number: int) -> str:
    return f"shard-{number:05}.json"


def _checksum(file: Path) -> str:
    digest = sha256()
    with file.open("rb") as content:
        while part := content.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m datasets.records", description=__doc__)
    parser.add_argument("source", nargs="?", metavar="SRC", help="folder, archive or table of images")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--size", type=int, default=0, help="resize images to this side; 0: store the files")
    parser.add_argument(
        "--fit", choices=CHOICES["fit"], help="how a resized picture becomes a square; default: crop"
    )
    parser.add_argument("--check", action="store_true", help="read all of OUT, and say whether it is whole")
    args = parser.parse_args()
    if args.check:
        print(f"{args.out}: all {check(args.out):,} shards are whole")
        return
    if args.source is None:
        parser.error("name the images and the folder to write: SRC OUT")
    if not 0 <= args.size <= 4096:
        raise UserError(f"--size={args.size}: expected 0 to 4096 pixels")
    if args.fit and not args.size:
        raise UserError(f"--fit={args.fit}: is for pictures that are resized; set their side by --size")
    square = Square(args.size, 1.0, args.fit or "crop") if args.size else None
    errors = pack(os.path.expanduser(args.source), args.out, square)
    for error in errors:
        print(f"warning: left out: {error}", file=sys.stderr)
    print(f"{args.out}: packed; train on it with --config.data.name=folder --config.data.dir={args.out}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
