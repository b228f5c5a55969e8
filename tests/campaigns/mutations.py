"""Changes to valid files: of their bytes, of the structure of JSON, and of what lies at a path.

All draw from a `random.Random`, so that the same seed gives the same file.
"""

import json
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Json = Any
Place = tuple[str | int, ...]  # a place in JSON: the keys and indices that lead there

# Values that a number in a file, or a flag, may be replaced by.
EXTREME_NUMBERS = (
    0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**15, 10**400, 0.5, -0.5, 1e-300,
    1e39, 1e300, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
OTHER_VALUES = (
    None,
    True,
    False,
    "",
    "x",
    "\x00",
    "é",
    "💡" * 50,
    "../../x",
    "a" * 5000,
    [],
    {},
    [[]],
    {"": {}},
)
KEYS = ("", "surprise", "model", "shape", "0", "é", "__class__", "a" * 300)
BOUNDARIES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


# Bytes


def _place(rng: Random, data: bytes) -> int:
    """Draws a position, half of the time near the beginning, where formats describe themselves."""
    if not data:
        return 0
    end = min(len(data), 512) if rng.random() < 0.5 else len(data)
    return rng.randrange(end)


def flip_bits(rng: Random, data: bytes) -> bytes:
    """Flips one bit, or a few."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 50)) if data else 0):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: Random, data: bytes) -> bytes:
    """Overwrites some bytes with random ones, zeros or ones."""
    start, size = _place(rng, data), rng.choice((1, 2, 4, 16, 200))
    filling = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))
    return data[:start] + filling[: len(data) - start] + data[start + size :]


def write_number(rng: Random, data: bytes) -> bytes:
    """Writes a boundary of the integers over the bytes at some place."""
    start, code = _place(rng, data), rng.choice("BHIQ")
    value = rng.choice(BOUNDARIES) % 2 ** (8 * struct.calcsize(code))
    number = struct.pack(rng.choice("<>") + code, value)
    return data[:start] + number[: len(data) - start] + data[start + len(number) :]


def truncate(rng: Random, data: bytes) -> bytes:
    """Cuts off the end."""
    return data[: rng.choice((0, 1, len(data) - 1, _place(rng, data), rng.randrange(len(data) + 1)))]


def delete_chunk(rng: Random, data: bytes) -> bytes:
    """Takes out some bytes."""
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 4, 64, 1000)) :]


def repeat_chunk(rng: Random, data: bytes) -> bytes:
    """Repeats some bytes, once or often."""
    start, size = _place(rng, data), rng.choice((1, 4, 64, 1000))
    return data[:start] + data[start : start + size] * rng.choice((2, 2, 100)) + data[start + size :]


def insert(rng: Random, data: bytes) -> bytes:
    """Puts random bytes in between."""
    start = _place(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 3, 40))) + data[start:]


def append(rng: Random, data: bytes) -> bytes:
    """Appends bytes, or the file once more."""
    return data + rng.choice((b"\x00", rng.randbytes(100), data))


BYTE_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    flip_bits, flip_bits, overwrite, write_number, truncate, delete_chunk, repeat_chunk, insert, append,
)  # fmt: skip


def change_bytes(rng: Random, data: bytes) -> bytes:
    """Makes one change of bytes, sometimes two or three."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BYTE_CHANGES)(rng, data)
    return data


# Text


def digits_to_extremes(rng: Random, data: bytes) -> bytes:
    """Replaces a number in a text by an extreme one."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", data))
    if not numbers:
        return append(rng, data)
    match = rng.choice(numbers)
    extremes = (*map(str, EXTREME_NUMBERS), "9" * 5000, "1e999", "0x10", "1_000", "٣", "")
    return data[: match.start()] + rng.choice(extremes).encode() + data[match.end() :]


def break_text(rng: Random, data: bytes) -> bytes:
    """Makes a text something that is no UTF-8, has null bytes, deep brackets or other ends of lines."""
    start = _place(rng, data)
    piece = rng.choice((b"\xff\xfe", b"\x00", b"[" * 100_000, b'{"a":' * 50_000, b"\xc3", b"\r", b"\n\n"))
    whole = rng.choice((data[:start] + piece + data[start:], piece, b"\xef\xbb\xbf" + data))
    return rng.choice((whole, data.decode(errors="replace").encode("utf-16"), whole))


def repeat_line(rng: Random, data: bytes) -> bytes:
    """Repeats, drops or exchanges lines."""
    lines = data.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(lines))
    rng.choice((
        lambda: lines.insert(at, lines[at]),
        lambda: lines.pop(at),
        lambda: lines.reverse(),
        lambda: lines.insert(at, rng.choice(lines)),
        lambda: lines.insert(at, b"x" * 100_000 + b"\n"),
    ))()  # fmt: skip
    return b"".join(lines)


def change_text(rng: Random, data: bytes) -> bytes:
    """Changes a text: as bytes, its numbers, its lines or its encoding."""
    return rng.choice((change_bytes, digits_to_extremes, repeat_line, break_text))(rng, data)


# JSON


def places(content: Json, prefix: Place = ()) -> Iterator[Place]:
    """Yields the places of all values in `content`, its own `()` first."""
    yield prefix
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*prefix, key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from places(value, (*prefix, index))


def value_at(content: Json, place: Place) -> Json:
    """Returns the value at a place of `content`."""
    for key in place:
        content = content[key]
    return content


def with_value(content: Json, place: Place, value: Json) -> Json:
    """Returns a copy of `content` with `value` at `place`, which is made where it is missing."""
    if not place:
        return value
    key, *rest = place
    copy = content.copy() if isinstance(content, dict | list) else {}
    inner = copy[key] if isinstance(copy, list) else copy.get(key, {})
    copy[key] = with_value(inner, tuple(rest), value)
    return copy


def changed_places(before: Json, after: Json, prefix: Place = ()) -> Iterator[str]:
    """Yields the dotted names of the places at which two JSON values differ; numbers differ by value."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            if key in before and key in after:
                yield from changed_places(before[key], after[key], (*prefix, key))
            else:
                yield ".".join(map(str, (*prefix, key)))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changed_places(one, other, (*prefix, index))
    elif json.dumps(before) != json.dumps(after) and not (_is_number(before) and before == after):
        yield ".".join(map(str, prefix))


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _any_value(rng: Random) -> Json:
    return rng.choice(rng.choice((EXTREME_NUMBERS, OTHER_VALUES)))


def _like(rng: Random, value: Json) -> Json:
    """Returns a value that resembles `value`: of its type but extreme, in a list, as text."""
    changes: list[Json] = [[value], {"x": value}, str(value), [value, value], _any_value(rng)]
    if isinstance(value, bool):
        changes.append(not value)
    elif isinstance(value, int | float):
        changes += [value + 1, -value, value * 2, float(value), *rng.sample(EXTREME_NUMBERS, 3)]
    elif isinstance(value, list):
        changes += [value[:-1], value[::-1], value * 1000, value[:1] * len(value)]
    elif isinstance(value, str):
        changes += [value + "x", value.upper(), value[:-1], value * 500]
    return rng.choice(changes)


def change_json(rng: Random, content: Json) -> Json:
    """Changes a value of JSON: another value or type, a missing or an additional key."""
    place = rng.choice(list(places(content)))
    old = value_at(content, place)
    kind = rng.choice(("like", "like", "any", "drop", "add", "swap"))
    if kind == "drop" and place and isinstance(value_at(content, place[:-1]), dict):
        siblings = dict(value_at(content, place[:-1]))
        del siblings[place[-1]]
        return with_value(content, place[:-1], siblings)
    if kind == "add" and isinstance(old, dict):
        return with_value(content, place, {**old, rng.choice(KEYS): _any_value(rng)})
    if kind == "swap":
        return with_value(content, place, value_at(content, rng.choice(list(places(content)))))
    return with_value(content, place, _like(rng, old) if kind == "like" else _any_value(rng))


def change_json_text(rng: Random, data: bytes) -> bytes:
    """Changes a file of one JSON value, two times of three in its structure."""
    if rng.random() < 1 / 3:
        return change_text(rng, data)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        content = change_json(rng, content)
    text = json.dumps(content, indent=2)
    if rng.random() < 0.05:  # The same key twice, of which the second counts.
        text = text.replace("{", '{"model": 1, "data": [], "config": 3,', 1)
    return text.encode()


def change_json_lines(rng: Random, data: bytes) -> bytes:
    """Changes a file with a JSON value on each line, half of the time one of the values."""
    lines = data.splitlines()
    if rng.random() < 0.5 or not lines:
        return change_text(rng, data)
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(change_json(rng, json.loads(lines[at]))).encode()
    return b"\n".join(lines) + b"\n"


# What lies at a path


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


def _empty_folder(path: Path) -> None:
    path.mkdir()


def _file(path: Path) -> None:
    path.write_bytes(b"a file\n")


def _sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            unix.bind(f"/proc/self/fd/{folder}/{path.name}")  # The path itself may be too long for a socket.
        finally:
            os.close(folder)


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _circle(path: Path) -> None:
    path.mkdir()
    (path / "circle").symlink_to("..")


def _unreadable(path: Path) -> None:
    _file(path)
    path.chmod(0)


REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "a pipe": _fifo,
    "a folder": _folder,
    "an empty folder": _empty_folder,
    "a file": _file,
    "a file of 64 GB": _sparse_file,
    "a socket": _socket,
    "a link to /dev/zero": _link_to("/dev/zero"),
    "a link to /dev/null": _link_to("/dev/null"),
    "a link to /proc/self/mem": _link_to("/proc/self/mem"),
    "a link to nowhere": _link_to("nowhere"),
    "a link to the root": _link_to("/proc/sys"),
    "a link to itself": _loop,
    "a folder that links to its parent": _circle,
    "a file that nobody may read": _unreadable,
    "nothing": lambda path: None,
}
