"""Grids of images with captions, and the writing of pictures."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.types import Split
from resnet.files import write_result

GRID_COLUMNS = 8
TILE = 128  # pixels at least, along a side
CAPTION = 20  # pixels, a line
MARGIN = 6  # pixels
CONFLICTS_SHOWN = 16  # pairs
PAIRS_SHOWN, PAIRS_SHOWN_WITHIN = 20, 8  # across two splits, and within one


def draw_grid(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Draws a grid of `images` uint8 [N, H, W, 3], eight in a row, above captions of one or more lines."""
    _, height, width, _ = images.shape
    zoom = max(1, TILE // max(height, width))  # whole, so that pixels stay square and sharp
    caption_height = CAPTION * max(caption.count("\n") + 1 for caption in captions)
    tile_width, tile_height = width * zoom + MARGIN, height * zoom + caption_height + MARGIN
    columns = min(GRID_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * tile_width + MARGIN, rows * tile_height + MARGIN), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(CAPTION - 6)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * tile_width, MARGIN + row * tile_height
        grid.paste(Image.fromarray(image.repeat(zoom, axis=0).repeat(zoom, axis=1)), (x, y))
        middle = (x + width * zoom / 2, y + height * zoom + 2)
        caption = "\n".join(_shortened(line, font, width * zoom) for line in caption.split("\n"))
        draw.text(middle, caption, "black", font, anchor="ma", align="center")
    return grid


def _shortened(line: str, font: Any, width: float) -> str:
    """Returns `line`, or as much of it as is no wider than `width` pixels."""
    if font.getlength(line) <= width:
        return line
    end = len(line)
    while end and font.getlength(f"{line[:end]}…") > width:
        end -= 1
    return f"{line[:end]}…"


def draw_pairs(splits: dict[str, Split], pairs: Sequence[dict[str, Any]]) -> Image.Image | None:
    """Draws the pairs of `datasets.audit` side by side, four in a row; None if there are none.

    Pairs with conflicting labels come first, then the closest pairs of every two splits.
    """
    chosen = [pair for pair in pairs if pair["conflict"]][:CONFLICTS_SHOWN]
    shown: Counter[tuple[str, ...]] = Counter()
    for pair in pairs:
        kind = tuple(pair["splits"])
        if not pair["conflict"] and shown[kind] < (PAIRS_SHOWN_WITHIN if kind[0] == kind[1] else PAIRS_SHOWN):
            shown[kind] += 1
            chosen.append(pair)
    if not chosen:
        return None
    images, captions = [], []
    for pair in chosen:
        for split, index, label in zip(pair["splits"], pair["indices"], pair["labels"], strict=True):
            images.append(splits[split].images[index])
            captions.append(f"{split} {index}: {label}")
        captions[-2] += "\nCONFLICT" if pair["conflict"] else ""
        captions[-1] += f"\ndistance {pair['distance']:.1f}"
    return draw_grid(np.stack(images), captions)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes `picture` to `path`, in the format of its extension, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    write_result(path, encode_picture(picture, path.suffix[1:]))


def encode_picture(picture: Image.Image, image_format: str = "png") -> bytes:
    """Returns the bytes of `picture` as a file of `image_format`."""
    content = io.BytesIO()
    picture.save(content, format=image_format)
    return content.getvalue()
