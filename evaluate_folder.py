"""Evaluation on a folder of labelled images: top-1 and top-5, of one crop and of ten."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from datasets import imagenet
from errors import UserError
from resnet.classifier import Classifier
from resnet.images import find_images, image_extensions

TOP = (1, 5)
NAMES_SHOWN = 3


def labelled_images(folder: Path, class_names: tuple[str, ...]) -> dict[Path, int]:
    """The image files in `folder`, which has a folder for each class, and their labels.

    A class's folder has its name or, of ImageNet's classes, its WordNet id, such as n01440764. Not every
    class needs one. Hidden files and folders are skipped.

    Raises:
        UserError: there is no such folder, it cannot be listed, or has something else in it: folders that
            are no class, a class without images, images outside of the classes' folders.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    examples = class_names[:NAMES_SHOWN]
    if synsets := imagenet.synsets_of(class_names):
        for label, names in enumerate(imagenet.classes().items()):
            labels = dict.fromkeys(names, label) | labels
        examples = (synsets[0], imagenet.classes()[synsets[0]])
    expected = f"expected one for each class, named as {' or '.join(examples)}"
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); expected a folder with a folder for each class"
        ) from None
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        raise UserError(f"{folder}: has no folders in it; {expected}, with its images")
    if unknown := [path.name for path in folders if path.name not in labels]:
        more = f" and {len(unknown) - NAMES_SHOWN} more" if len(unknown) > NAMES_SHOWN else ""
        raise UserError(
            f"{folder}: has folders that are no class of these weights:"
            f" {', '.join(unknown[:NAMES_SHOWN])}{more}; {expected}"
        )
    if loose := [
        path.name for path in entries if path.suffix.lower() in image_extensions() and path.is_file()
    ]:
        raise UserError(
            f"{folder}: has {len(loose)} images outside of the classes' folders, such as {loose[0]}; expected"
            " none: move them"
        )
    return {file: labels[path.name] for path in folders for file in find_images([path])}


def evaluate_crops(
    classifier: Classifier, batches: Iterable[tuple[list[Path], np.ndarray]], labels: dict[Path, int]
) -> dict[str, Any]:
    """How often the right class is the most probable one to `classifier`, or among the first five.

    `batches` yields files and their crops, uint8 [N, crops, S, S, 3], the central one first: `1-crop` is
    measured by that alone, and if there are ten, `10-crop` by the mean of their probabilities (He et al.
    2015, arXiv:1512.03385, section 3.4). Only one batch is held at a time.

    Returns `images`, their number, and for each of the two `top1_accuracy`, `top1_error`, `top5_accuracy`
    and `top5_error`, shares. Of equally probable classes, the first counts as the more probable.
    """
    hits: Counter[tuple[str, int]] = Counter()
    images = 0
    for files, squares in batches:
        count, crops = squares.shape[:2]
        flat = classifier.probabilities(squares.reshape(-1, *squares.shape[2:]))
        probabilities = flat.reshape(count, crops, -1)
        truth = np.array([[labels[file]] for file in files])
        for name, scores in {"1-crop": probabilities[:, 0], f"{crops}-crop": probabilities.mean(1)}.items():
            is_right = np.argsort(-scores, axis=-1, kind="stable") == truth
            hits.update({(name, k): int(is_right[:, :k].sum()) for k in TOP})
        images += count
    measured: dict[str, Any] = {"images": images}
    for (name, k), right in hits.items():
        shares = {f"top{k}_accuracy": right / images, f"top{k}_error": (images - right) / images}
        measured[name] = measured.get(name, {}) | shares
    return measured


def format_crops(measured: dict[str, Any]) -> str:
    """The table that `--mode=eval` prints for what `evaluate_crops` returns."""
    rows = [[name, *shares.values()] for name, shares in measured.items() if name.endswith("-crop")]
    headers = ["", *(f"top-{k} {what}" for k in TOP for what in ("accuracy", "error"))]
    return tabulate(rows, headers=headers, floatfmt=".4f")
