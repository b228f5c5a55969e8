"""Pictures and tables of a run, and the writing of them."""

import io
import json
import shutil
import tempfile
import zipfile
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


class FeaturesWriter:
    """Writes rows of features and the paths that they are of to an `.npz`, as they come, whole or not at all.

    A context manager; the file has `features` float32 [N, ...] and `paths` [N].
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths: list[str] = []
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> "FeaturesWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = tempfile.TemporaryFile(dir=self.path.parent)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); name a folder that can"
            ) from None
        return self

    def write(self, paths: Sequence[str], features: np.ndarray) -> None:
        """Adds rows: `features` [N, ...] of `paths` [N]."""
        self.paths += paths
        self._shape = features.shape[1:]
        self._rows.write(np.ascontiguousarray(features, np.float32).tobytes())

    def __exit__(self, kind: type | None, *error: object) -> None:
        with self._rows:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        # NumPy's header comes first and says how many rows there are, which only now is known.
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.paths), *self._shape)}
        temporary = self.path.with_name(self.path.name + ".tmp")
        self._rows.seek(0)
        with zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                shutil.copyfileobj(self._rows, entry, 2**20)
            with archive.open("paths.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(self.paths, dtype=str))
        temporary.replace(self.path)


def _write(content: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); name a folder that can by --workdir"
        ) from None
