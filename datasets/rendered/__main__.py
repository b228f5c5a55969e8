"""Writes a sheet of sixty rendered hands, or with `--label` a single one."""

import argparse
import io
import os
import sys
import threading
from pathlib import Path

from PIL import Image, ImageDraw

from datasets.rendered.render import CLASS_NAMES, TEST, render, render_range
from resnet.errors import exit_code
from resnet.files import write_result

IMAGE_SIZE = 64  # pixels along a side of the pictures shown
MARGIN = 28  # pixels left of the pictures, for the labels


def sheet(seed: int = 0, per_class: int = 10, enlarge: int = 2, variety: float = 1.0) -> Image.Image:
    """Draws a contact sheet with one labelled row a class.

    Pictures are enlarged `enlarge` times without smoothing.
    """
    side = IMAGE_SIZE * enlarge
    page = Image.new("RGB", (MARGIN + per_class * side, len(CLASS_NAMES) * side), "white")
    pen = ImageDraw.Draw(page)
    for label, name in enumerate(CLASS_NAMES):
        pen.text((8, label * side + side // 2 - 10), name, "black", font_size=20)
        for i in range(per_class):
            index = i * len(CLASS_NAMES) + label
            picture = Image.fromarray(render(label, index, seed, image_size=IMAGE_SIZE, variety=variety))
            enlarged = picture.resize((side, side), Image.Resampling.NEAREST)
            page.paste(enlarged, (MARGIN + i * side, label * side))
    return page


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m datasets.rendered", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.png", help="the picture to write")
    parser.add_argument("--label", type=int, help="write one hand that shows this sign, 0 to 5")
    parser.add_argument("--index", type=int, default=0, help="number of that hand in the test stream")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument(
        "--variety", type=float, default=1.0, help="from 0 (all easy to read) to 1 (some hard)"
    )
    # For the worker processes of `dataset.py`: stream, first and last index, seed and image size.
    parser.add_argument("--range", type=int, nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.range:
        _end_with_caller()
        stream, start, stop, seed, image_size = args.range
        images = render_range(
            start, stop, seed=seed, image_size=image_size, stream=stream, variety=args.variety
        )
        sys.stdout.buffer.write(images.tobytes())
    elif args.out is None:
        parser.error("name the picture to write: OUT.png")
    elif args.label is None:
        _write_png(sheet(args.seed, variety=args.variety), args.out)
    else:
        image = render(args.label, args.index, args.seed, stream=TEST, variety=args.variety)
        _write_png(Image.fromarray(image), args.out)


def _end_with_caller() -> None:
    """Ends this process as soon as its standard input closes, which its caller holds open."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_png(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    write_result(path, content.getvalue())


if __name__ == "__main__":
    sys.exit(exit_code(main))
