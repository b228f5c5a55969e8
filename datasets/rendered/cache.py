"""Keeps rendered images in the cache folder: drawing thousands takes a minute, reading them a moment."""

import functools
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL

from datasets.cache_files import remove_longest_unused
from resnet.files import cache_folder, write_whole

MIN_IMAGES = 500  # fewer are drawn in a few seconds and not worth keeping
LIMIT = 10 * 10**9  # bytes that all files may take together
# The files of this folder on which the pictures depend: render.py and all that it imports.
SOURCES = (
    "background.py",
    "camera.py",
    "hand.py",
    "photograph.py",
    "pixels.py",
    "poses.py",
    "render.py",
    "round_cones.py",
    "shading.py",
    "skeleton.py",
)


def load_or_draw(name: str, shape: tuple[int, ...], draw: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the images that the cache has under `name`, or draws them and keeps them there.

    Images by another version of the renderer are removed, and beyond `LIMIT` those unused the longest. Where
    the cache cannot be read or written, or holds something else, the images are drawn.

    Args:
      name: of the file. It must hold everything that the images depend on, but for the renderer.
      shape: of the images.
      draw: makes the images, uint8 of `shape`.

    Returns: uint8 array of `shape`.
    """
    folder = cache_folder()
    if folder is None or shape[0] < MIN_IMAGES:
        return draw()
    file = folder / "rendered" / _source_digest() / f"{name}.bin"
    size = int(np.prod(shape))
    try:
        content = np.fromfile(file, np.uint8)
        pixels, checksum = content[:size], content[size:].tobytes()
        if checksum == hashlib.sha256(pixels.data).digest():
            with suppress(OSError):  # Of a cache that is read-only, nothing is removed either.
                os.utime(file)
            return pixels.reshape(shape)
    except OSError:
        pass
    images = draw()
    _keep(file, images.tobytes())
    return images


def _keep(file: Path, pixels: bytes) -> None:
    """Writes pixels and their checksum to `file`.

    Removes what other versions of the renderer drew, and what was unused the longest beyond `LIMIT`.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, pixels + hashlib.sha256(pixels).digest())
        for version in file.parent.parent.iterdir():
            if version != file.parent:
                shutil.rmtree(version, ignore_errors=True)
        remove_longest_unused(file.parent.glob("*.bin"), LIMIT)
    except OSError:
        pass  # The disk is full or read-only. The images are drawn again next time.


@functools.cache
def _source_digest() -> str:
    """Names the version of the renderer by a checksum of its sources and of the libraries' versions."""
    content = hashlib.sha256(f"{np.__version__} {PIL.__version__}".encode())
    for name in SOURCES:
        content.update((Path(__file__).parent / name).read_bytes())
    return content.hexdigest()[:16]
