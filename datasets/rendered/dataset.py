"""A data set of rendered hands, drawn by several processes and kept in the cache folder."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.rendered.cache import load_or_draw
from datasets.rendered.render import (
    CLASS_NAMES,
    IMAGE_SIZES,
    TEST,
    TRAIN,
    check_share,
    check_whole_number,
    render_range,
)
from datasets.threads import cores
from datasets.types import Dataset, Split

IMAGES_WORTH_A_PROCESS = 50  # starting a process takes about as long as rendering 30 images
MAX_WORKERS = 16


def load(
    *,
    seed: int = 0,
    train_size: int = 1080,
    test_size: int = 120,
    image_size: int = 64,
    variety: float = 1.0,
    workers: int | None = None,
) -> Dataset:
    """Renders training and test images with mattes.

    Image `i` of a seed and split shows the sign `i % 6`. It does not depend on how many images are asked
    for, nor on how many processes draw them. The two splits share no random numbers.

    Args:
      seed: of the random numbers, 0 or more.
      train_size, test_size: numbers of images, at least 1.
      image_size: pixels along a side, within IMAGE_SIZES.
      variety: how far images may go from ordinary photographs, 0 to 1. See `render_with_matte`.
      workers: number of processes; None starts one a core, and fewer for few images.

    Returns: images uint8 `[N, image_size, image_size, 3]`, mattes uint8 `[N, image_size, image_size]`, labels
    int32 `[N]`.

    Raises: UserError for an argument out of its range.
    """
    check_whole_number("config.data.seed", seed, 0)
    check_whole_number("config.data.train_size", train_size, 1)
    check_whole_number("config.data.test_size", test_size, 1)
    check_whole_number("config.data.image_size", image_size, *IMAGE_SIZES)
    check_share("config.data.variety", variety)
    if workers is None:
        workers = min(cores(), MAX_WORKERS)
    renderer = _Renderer(seed, image_size, float(variety), workers)
    return Dataset(renderer.split(TRAIN, train_size), renderer.split(TEST, test_size), CLASS_NAMES)


class _Renderer(NamedTuple):
    """What the images of both splits share, and the number of processes that draw them."""

    seed: int
    image_size: int
    variety: float
    workers: int

    def split(self, stream: int, count: int) -> Split:
        """Returns the first `count` images of `stream`, from the cache or newly drawn."""
        shape = (count, self.image_size, self.image_size, 4)
        name = f"{stream}-{self.seed}-{count}-{self.image_size}-{self.variety}"
        images = load_or_draw(name, shape, lambda: self._draw(stream, count))
        labels = np.arange(count, dtype=np.int32) % len(CLASS_NAMES)
        return Split(np.ascontiguousarray(images[..., :3]), labels, np.ascontiguousarray(images[..., 3]))

    def _draw(self, stream: int, count: int) -> np.ndarray:
        """Draws the images with their mattes as the fourth channel, uint8 `[count, H, W, 4]`."""
        workers = max(1, min(self.workers, count // IMAGES_WORTH_A_PROCESS))
        if workers == 1:
            return render_range(
                0, count, seed=self.seed, image_size=self.image_size, stream=stream, variety=self.variety
            )
        bounds = np.linspace(0, count, workers + 1).astype(int)
        processes = [self._start_process(stream, start, stop) for start, stop in pairwise(bounds)]
        try:
            outputs = [process.stdout.read() for process in processes if process.stdout]
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
        if failed := [code for code in codes if code]:
            raise RuntimeError(f"a rendering process failed with exit code {failed[0]}")
        return np.frombuffer(b"".join(outputs), np.uint8).reshape(count, self.image_size, self.image_size, 4)

    def _start_process(self, stream: int, start: int, stop: int) -> subprocess.Popen[bytes]:
        """Starts a process that writes the bytes of `render_range` to its standard output.

        It is not a multiprocessing pool: forking is unsafe once JAX runs, and spawning would import the
        caller's main module, with JAX, in every worker.
        """
        numbers = (stream, start, stop, self.seed, self.image_size)
        command = [sys.executable, "-m", "datasets.rendered", "--range", *map(str, numbers)]
        command.append(f"--variety={self.variety}")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # When it closes, the worker ends, whatever has ended the caller.
            stdout=subprocess.PIPE,
            # The matrices are small, so more than one thread a process would be in the way.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            cwd=Path(__file__).resolve().parents[2],  # from where `datasets` can be imported
            start_new_session=True,  # Ctrl-C reaches the caller alone.
        )
