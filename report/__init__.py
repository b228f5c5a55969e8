"""Pictures and tables, and the writing of them; `report.page` makes the report of a run out of them."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from datasets.types import Split
from files import write_result
from resnet.classifier import Guess, Prediction
from resnet.summary import Layer

GRID_COLUMNS = 8
TILE = 128  # pixels at least, along a side
CAPTION = 20  # pixels, a line
MARGIN = 6  # pixels
CLASSES_IN_COLUMNS = 10  # of a table of predictions; where there are more, the likeliest get rows
CONFLICTS_SHOWN = 16  # pairs
PAIRS_SHOWN = {False: 20, True: 8}  # of each two splits, and within a split


def draw_grid(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """A grid of `images` uint8 [N, H, W, 3], eight in a row, each above its caption of one or more lines."""
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
        draw.text(middle, caption, "black", font, anchor="ma", align="center")
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


def format_guesses(guesses: Sequence[tuple[str, Sequence[Guess]]]) -> str:
    """The table of `--mode=predict` where classes are many: the most probable ones of each path."""
    rows = [
        ("" if rank else path, guess.synset, guess.label, f"{guess.probability:.4f}")
        for path, top in guesses
        for rank, guess in enumerate(top)
    ]
    if not any(synset for _, synset, *_ in rows):
        return _table([(path, *rest) for path, _, *rest in rows], ["path", "label", "probability"], "llr")
    return _table(rows, ["path", "synset", "label", "probability"], "lllr")


def draw_pairs(splits: dict[str, Split], pairs: Sequence[dict[str, Any]]) -> Image.Image | None:
    """Pairs of `datasets.audit` side by side, four in a row; None if there are none.

    First those whose labels conflict, then the closest of each two splits.
    """
    chosen = [pair for pair in pairs if pair["conflict"]][:CONFLICTS_SHOWN]
    shown: Counter[tuple[str, ...]] = Counter()
    for pair in pairs:
        kind = tuple(pair["splits"])
        if not pair["conflict"] and shown[kind] < PAIRS_SHOWN[kind[0] == kind[1]]:
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


def format_audit(audit: dict[str, Any]) -> str:
    """The tables of `--mode=audit`, for what `datasets.audit.audit` returns."""
    counts = audit["classes"]
    classes = [
        [name, *(str(counts[split][name]) for split in counts)] for name in next(iter(counts.values()))
    ]
    close = []
    for entry in audit["near_duplicates"]:
        for threshold, found in entry["within"].items():
            numbers = (str(found[name]) for name in ("pairs", "images", "conflicts"))
            close.append([" and ".join(dict.fromkeys(entry["splits"])), threshold, *numbers])
    neighbour = []
    for split, measured in audit["nearest_neighbour"].items():
        for kind, part in (("all", measured), ("without a near duplicate", measured["without_twins"])):
            accuracy = "-" if part["accuracy"] is None else f"{part['accuracy']:.4f}"
            neighbour.append([split, kind, str(part["images"]), accuracy])
    return "\n\n".join(
        [
            "Images of each class\n" + _table(classes, ["class", *counts], "l" + "r" * len(counts)),
            "Near duplicates: grey levels RMS apart at most, pairs, images of the second split in them,"
            " pairs of different labels\n"
            + _table(close, ["splits", "within", "pairs", "images", "conflicts"], "lrrrr"),
            "Nearest neighbour on raw pixels: what a network must beat\n"
            + _table(neighbour, ["split", "images", "number", "accuracy"], "llrr"),
        ]
    )


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], alignment: str) -> str:
    sides = {"l": "left", "r": "right"}
    # Class names and paths may look like numbers; they are not.
    return tabulate(rows, headers, disable_numparse=True, colalign=[sides[letter] for letter in alignment])


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes `picture` to `path`, in the format of its extension, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    write_result(path, encode_picture(picture, path.suffix[1:]))


def encode_picture(picture: Image.Image, image_format: str = "png") -> bytes:
    """The bytes of `picture` as a file of `image_format`."""
    content = io.BytesIO()
    picture.save(content, format=image_format)
    return content.getvalue()
