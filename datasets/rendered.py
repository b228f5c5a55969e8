"""Rendered hand signs 0-5: a data source that needs no files.

Every image is one random hand (`datasets.hand`) in one random place (`datasets.photograph`).
`python -m datasets.rendered OUT.png` writes a labelled sheet of 60, and with `--label=2` one image;
`--variety=0` makes them all easy to read.
"""

import argparse
import io
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datasets.hand import sample_hand
from datasets.photograph import photograph, sample_strength, sample_view
from datasets.render_cache import cached
from datasets.types import Dataset, Split
from errors import UserError, exit_code
from files import write_result

CLASS_NAMES = ("0", "1", "2", "3", "4", "5")
TRAIN, TEST = 0, 1
IMAGE_SIZES = (16, 512)  # smallest, largest
IMAGES_WORTH_A_PROCESS = 50  # a process takes about as long to start as 30 images


def _check(field: str, value: object, low: int, high: int | None = None) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        expected = (
            f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
        )
        raise UserError(f"{field}: found {value!r}; expected {expected}; set {field} to such a number")


def _check_share(field: str, value: object) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise UserError(
            f"{field}: found {value!r}; expected a number from 0 to 1; set {field} to such a number"
        )


def render_with_matte(
    label: int, index: int, seed: int, image_size: int = 64, stream: int = TRAIN, variety: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """One picture of a hand showing `label`, uint8 `[image_size, image_size, 3]`, RGB, and its matte, uint8
    `[image_size, image_size]`, 255 where there is nothing but hand and arm, 0 where there is none.

    It depends on nothing but the arguments: image `index` of a `seed` and a `stream` (TRAIN or
    TEST) is always the same. `variety` is how far it may go from an ordinary photograph, 0 to 1: that of
    a whole hand, upright, palm or ring to the viewer, before a plain wall. How far it does go is drawn
    evenly from 0 to `variety`, so that easy, middling and hard pictures are alike frequent. Hands and
    skins differ in full at any. Raises UserError for a label outside 0-5 or a number out of range.
    """
    _check("label", label, 0, len(CLASS_NAMES) - 1)
    for field, value in (("index", index), ("seed", seed), ("stream", stream)):
        _check(field, value, 0)
    _check("image_size", image_size, *IMAGE_SIZES)
    _check_share("variety", variety)
    rng = np.random.default_rng([seed, stream, index])
    strength = sample_strength(variety, rng)
    hand = sample_hand(label, strength.sign, rng)
    return photograph(hand, sample_view(label, hand, strength.sign, rng), image_size, strength, rng)


def render(
    label: int, index: int, seed: int, image_size: int = 64, stream: int = TRAIN, variety: float = 1.0
) -> np.ndarray:
    """The picture alone of `render_with_matte`."""
    return render_with_matte(label, index, seed, image_size, stream, variety)[0]


def _render_range(
    stream: int, start: int, stop: int, seed: int, image_size: int, variety: float
) -> np.ndarray:
    """Images `start` up to `stop`, uint8 `[N, image_size, image_size, 4]`: RGB and the matte."""
    images = np.empty((stop - start, image_size, image_size, 4), np.uint8)
    for i in range(start, stop):
        image, matte = render_with_matte(i % len(CLASS_NAMES), i, seed, image_size, stream, variety)
        images[i - start, ..., :3], images[i - start, ..., 3] = image, matte
    return images


def _render_aside(*range_of_images: int, variety: float) -> subprocess.Popen:
    """A process of its own that writes the bytes of `_render_range` to its standard output.

    Not a multiprocessing pool: forking is unsafe once JAX runs, and spawning would import the
    caller's main module, JAX and all, in every worker.
    """
    command = [sys.executable, "-m", "datasets.rendered", "--range", *map(str, range_of_images)]
    command.append(f"--variety={variety}")
    # One thread each: the matrices are small.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parent.parent
    # A session of its own: Ctrl-C is for the caller, who ends it.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, cwd=root, start_new_session=True
    )


def _split(stream: int, count: int, seed: int, image_size: int, variety: float, workers: int) -> Split:
    shape = (count, image_size, image_size, 4)
    name = f"{stream}-{seed}-{count}-{image_size}-{variety}"
    images = cached(name, shape, lambda: _draw(stream, count, seed, image_size, variety, workers))
    labels = np.arange(count, dtype=np.int32) % len(CLASS_NAMES)
    return Split(np.ascontiguousarray(images[..., :3]), labels, np.ascontiguousarray(images[..., 3]))


def _draw(stream: int, count: int, seed: int, image_size: int, variety: float, workers: int) -> np.ndarray:
    """All images of a split, uint8 `[count, image_size, image_size, 4]`: RGB and the matte."""
    if workers == 1:
        return _render_range(stream, 0, count, seed, image_size, variety)
    bounds = np.linspace(0, count, workers + 1).astype(int)
    helpers = [_render_aside(stream, a, b, seed, image_size, variety=variety) for a, b in pairwise(bounds)]
    try:
        outputs = [helper.communicate()[0] for helper in helpers]
    finally:
        for helper in helpers:
            helper.kill()
    for helper in helpers:
        if helper.returncode:
            raise RuntimeError(f"a rendering process failed with exit code {helper.returncode}")
    return np.frombuffer(b"".join(outputs), np.uint8).reshape(count, image_size, image_size, 4)


def load(
    seed: int = 0,
    train_size: int = 1080,
    test_size: int = 120,
    image_size: int = 64,
    variety: float = 1.0,
    workers: int | None = None,
) -> Dataset:
    """Rendered training and test images, uint8 `[N, image_size, image_size, 3]`, with mattes; label `i % 6`.

    Image i of a seed and split is the same however many are asked for and however many worker
    processes draw them (by default one a core, fewer for few images), and the two splits share no
    random numbers. `variety` is that of `render_with_matte`. Raises UserError for a size or seed that is not
    a whole number in range, and for a variety outside 0 to 1.
    """
    _check("data.seed", seed, 0)
    _check("data.train_size", train_size, 1)
    _check("data.test_size", test_size, 1)
    _check("data.image_size", image_size, *IMAGE_SIZES)
    _check_share("data.variety", variety)
    if workers is None:
        workers = min(os.cpu_count() or 1, 16)
    splits = []
    for stream, count in ((TRAIN, train_size), (TEST, test_size)):
        useful = max(1, min(workers, count // IMAGES_WORTH_A_PROCESS))
        splits.append(_split(stream, count, seed, image_size, float(variety), useful))
    return Dataset(*splits, CLASS_NAMES)


def sheet(seed: int = 0, per_class: int = 10, enlarge: int = 2, variety: float = 1.0) -> Image.Image:
    """A contact sheet: one labelled row a class, the pixels enlarged without smoothing."""
    margin, side = 28, 64 * enlarge
    page = Image.new("RGB", (margin + per_class * side, len(CLASS_NAMES) * side), "white")
    pen = ImageDraw.Draw(page)
    for label, name in enumerate(CLASS_NAMES):
        pen.text((8, label * side + side // 2 - 10), name, "black", font_size=20)
        for i in range(per_class):
            image = Image.fromarray(render(label, i * len(CLASS_NAMES) + label, seed, variety=variety))
            enlarged = image.resize((side, side), Image.Resampling.NEAREST)
            page.paste(enlarged, (margin + i * side, label * side))
    return page


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m datasets.rendered", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.png", help="the picture to write")
    parser.add_argument("--label", type=int, help="write one image of this sign, not the sheet")
    parser.add_argument("--index", type=int, default=0, help="which image of the test stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variety", type=float, default=1.0, help="0 (all easy to read) to 1 (some hard)")
    parser.add_argument("--range", type=int, nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.range:
        sys.stdout.buffer.write(_render_range(*args.range, args.variety).tobytes())
    elif args.out is None:
        parser.error("name the picture to write: OUT.png")
    elif args.label is None:
        _write(sheet(args.seed, variety=args.variety), args.out)
    else:
        image = render(args.label, args.index, args.seed, stream=TEST, variety=args.variety)
        _write(Image.fromarray(image), args.out)


def _write(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    write_result(path, content.getvalue())


if __name__ == "__main__":
    sys.exit(exit_code(_main))
