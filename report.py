"""Pictures and tables of a run, and the writing of them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from errors import UserError
from files import write_whole
from resnet.classifier import Prediction
from resnet.summary import Layer

GRID_COLUMNS = 8
TILE = 128  # pixels at least, along a side
CAPTION = 20  # pixels
MARGIN = 6  # pixels


def draw_grid(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """A grid of `images` uint8 [N, H, W, 3], eight in a row, each above its caption."""
    _, height, width, _ = images.shape
    zoom = max(1, TILE // max(height, width))  # whole, so that pixels stay square and sharp
    tile_width, tile_height = width * zoom + MARGIN, height * zoom + CAPTION + MARGIN
    columns = min(GRID_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * tile_width + MARGIN, rows * tile_height + MARGIN), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(CAPTION - 6)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * tile_width, MARGIN + row * tile_height
        grid.paste(Image.fromarray(image.repeat(zoom, axis=0).repeat(zoom, axis=1)), (x, y))
        draw.text((x + width * zoom / 2, y + height * zoom + 2), caption, "black", font, anchor="ma")
    return grid


def format_layers(layers: Sequence[Layer]) -> str:
    """The table of `--mode=summary`, totals last."""
    rows = [
        (
            layer.name,
            " x ".join(map(str, ("N", *layer.output_shape))),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
        )
        for layer in layers
    ]
    parameters = sum(layer.parameters for layer in layers)
    multiply_adds = sum(layer.multiply_adds for layer in layers)
    rows.append(("total", "", f"{parameters:,}", f"{multiply_adds:,}"))
    return _table(rows, ["layer", "output shape", "parameters", "multiply-adds"], "llrr")


def format_predictions(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """The table of `--mode=predict`: the label, and the probability of every class."""
    rows = [
        (prediction.path, prediction.label, *(f"{p:.4f}" for p in prediction.probabilities.values()))
        for prediction in predictions
    ]
    return _table(rows, ["path", "label", *class_names], "ll" + "r" * len(class_names))


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], alignment: str) -> str:
    sides = {"l": "left", "r": "right"}
    # Class names and paths may look like numbers; they are not.
    return tabulate(rows, headers, disable_numparse=True, colalign=[sides[letter] for letter in alignment])


def write_json(report: dict[str, Any], path: Path) -> None:
    """Writes `report` to `path`, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    _write((json.dumps(report, indent=2) + "\n").encode(), path)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes `picture` to `path`, in the format of its extension, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, format=path.suffix[1:])
    _write(content.getvalue(), path)


def _write(content: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); name a folder that can by --workdir"
        ) from None
