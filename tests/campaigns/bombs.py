"""Small files that declare, or unpack to, far more than there is; each must be refused."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

ZEROS = bytes(2**20)


class Bomb(NamedTuple):
    """A file that `make` writes into a folder, from seeds; it returns the arguments of main.py that read it.

    One that `is_whole` holds all that it declares, and may be read if that takes no more than 3 GB.
    """

    name: str
    make: Callable[[Path, Path], Sequence[str]]
    is_whole: bool = False


def _weights(file: Path) -> list[str]:
    return ["--mode=predict", "--json", f"--weights={file}", "{seeds}/pictures/good.png"]


def _signs(folder: Path) -> list[str]:
    data = ("--config.data.name=signs", f"--config.data.dir={folder}")
    return ["--mode=audit", "--config={root}/configs/default.py", *data, "--workdir={case}/audit"]


def _picture(file: Path) -> list[str]:
    return ["--mode=predict", "--json", "--workdir={seeds}/run", str(file)]


def keras_that_unpacks_to_gigabytes(folder: Path, seeds: Path) -> Sequence[str]:
    """Writes a `.keras` file of 4 MB, whose weights are 4 GB of zeros."""
    file = folder / "model.keras"
    with zipfile.ZipFile(seeds / "weights" / "model.keras") as valid:
        others = {name: valid.read(name) for name in valid.namelist() if not name.endswith(".h5")}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in others.items():
            archive.writestr(name, content)
        with archive.open("model.weights.h5", "w", force_zip64=True) as entry:
            for _ in range(4096):
                entry.write(ZEROS)
    return _weights(file)


def keras_with_a_description_of_gigabytes(folder: Path, seeds: Path) -> Sequence[str]:
    """Writes a `.keras` file whose metadata are 2 GB of spaces."""
    file = folder / "model.keras"
    with zipfile.ZipFile(seeds / "weights" / "model.keras") as valid:
        weights = valid.read("model.weights.h5")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model.weights.h5", weights)
        archive.writestr("config.json", "{}")
        with archive.open("metadata.json", "w", force_zip64=True) as entry:
            for _ in range(2048):
                entry.write(ZEROS.replace(b"\0", b" "))
    return _weights(file)


def _hdf5_that_declares(shape: tuple[int, ...]) -> Callable[[Path, Path], Sequence[str]]:
    def make(folder: Path, seeds: Path) -> Sequence[str]:
        file = folder / "weights.weights.h5"
        with h5py.File(seeds / "weights" / "model.weights.h5") as valid, h5py.File(file, "w") as bomb:
            for name in valid:
                valid.copy(name, bomb)
            names: list[str] = []
            bomb.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            del bomb[names[0]]
            bomb.create_dataset(names[0], shape, "f4", chunks=(1, 1, 1, 1024))
        return _weights(file)

    return make


def _signs_with(write: Callable[[h5py.File, Path], None]) -> Callable[[Path, Path], Sequence[str]]:
    def make(folder: Path, seeds: Path) -> Sequence[str]:
        signs = folder / "signs"
        signs.mkdir()
        (signs / "test_signs.h5").write_bytes((seeds / "signs" / "test_signs.h5").read_bytes())
        with h5py.File(signs / "train_signs.h5", "w") as file:
            write(file, folder)
            file["train_set_y"] = np.zeros(file["train_set_x"].shape[0] % 1000, np.int64)
            file["list_classes"] = np.arange(6, dtype=np.int64)
        return _signs(signs)

    return make


def _declared_images(file: h5py.File, folder: Path) -> None:
    file.create_dataset("train_set_x", (4_000_000_000, 64, 64, 3), "u1", chunks=(1, 64, 64, 3))


def _external_images(file: h5py.File, folder: Path) -> None:
    external = [("/dev/zero", 0, 30 * 64 * 64 * 3)]
    file.create_dataset("train_set_x", (30, 64, 64, 3), "u1", external=external)


def _virtual_images(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "elsewhere.h5", "w") as other:
        other["x"] = np.zeros((30, 64, 64, 3), np.uint8)
    layout = h5py.VirtualLayout((30, 64, 64, 3), "u1")
    layout[:] = h5py.VirtualSource(folder / "elsewhere.h5", "x", (30, 64, 64, 3))
    file.create_virtual_dataset("train_set_x", layout)


def _linked_images(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "elsewhere.h5", "w") as other:
        other["x"] = np.zeros((30, 64, 64, 3), np.uint8)
    file["train_set_x"] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "x")


def safetensors_of_a_huge_header(folder: Path, seeds: Path) -> Sequence[str]:
    """Writes a safetensors file that declares a header of 2^62 bytes."""
    (folder / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b'{"a":1}')
    return _weights(folder / "w.safetensors")


def safetensors_of_deep_brackets(folder: Path, seeds: Path) -> Sequence[str]:
    """Writes a safetensors file whose description has a hundred thousand brackets inside each other."""
    data = (seeds / "weights" / "safetensors" / "resnet.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["resnet_config"] = "[" * 100_000
    text = json.dumps(header).encode()
    (folder / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return _weights(folder / "w.safetensors")


def _png(width: int, height: int, rows: int) -> bytes:
    """Returns a grey PNG of this size, whose pixels are zeros; only so many `rows` of them are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    packed, content = zlib.compressobj(1), io.BytesIO()
    row = bytes(width + 1)
    for _ in range(rows // 1000):
        content.write(packed.compress(row * 1000))
    content.write(packed.compress(row * (rows % 1000)) + packed.flush())
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", content.getvalue()) + chunk(b"IEND", b"")
    )


def _png_of(width: int, height: int, rows: int) -> Callable[[Path, Path], Sequence[str]]:
    def make(folder: Path, seeds: Path) -> Sequence[str]:
        (folder / "bomb.png").write_bytes(_png(width, height, rows))
        return _picture(folder / "bomb.png")

    return make


BOMBS: tuple[Bomb, ...] = (
    Bomb("a .keras file that unpacks to 4 GB", keras_that_unpacks_to_gigabytes),
    Bomb("a .keras file with metadata of 2 GB", keras_with_a_description_of_gigabytes),
    Bomb("HDF5 weights that declare 16 GB", _hdf5_that_declares((4, 1024, 1024, 1024))),
    Bomb("HDF5 weights that declare 49 TB", _hdf5_that_declares((12_000, 1024, 1024, 1024))),
    Bomb("HDF5 images that declare 49 TB", _signs_with(_declared_images)),
    Bomb("HDF5 images that lie in /dev/zero", _signs_with(_external_images)),
    Bomb("HDF5 images that are virtual", _signs_with(_virtual_images)),
    Bomb("HDF5 images behind an external link", _signs_with(_linked_images)),
    Bomb("a safetensors file with a header of 2^62 bytes", safetensors_of_a_huge_header),
    Bomb("a safetensors file with deep brackets", safetensors_of_deep_brackets),
    Bomb("a PNG of 50,000 by 50,000", _png_of(50_000, 50_000, 10)),
    Bomb("a PNG that declares a side of 2^31", _png_of(2**31 - 1, 1, 0)),
    Bomb("a PNG of 1 by 99,000,000", _png_of(1, 99_000_000, 99_000_000), is_whole=True),
)
