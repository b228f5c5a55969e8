"""Evaluation on a folder of labelled images: top-1 and top-5, with one crop and with ten."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.archives import Folder
from datasets.listing import class_name_of
from resnet import imagenet
from resnet.classifier import Classifier
from resnet.errors import UserError
from resnet.files import printable
from resnet.images import describe_kinds, image_extensions, is_hidden, report_unreadable, unreadable_kind
from resnet.wording import first_of

TOP = (1, 5)
NAMES_SHOWN = 3


def labelled_images(
    folder: Path, class_names: tuple[str, ...], report: Callable[[UserError], None] | None = None
) -> dict[Path, int]:
    """Returns the image files in `folder`, which has a folder for each class, with their labels.

    The folder of a class has the name of the class or, for a class of ImageNet, its WordNet id, such as
    n01440764. Names and folders are read as for training: letters may be composed in any way, and links are
    followed. Not every class needs a folder. Hidden files and folders are skipped, and links in a circle.
    `report` is called once if there are pictures of kinds that cannot be read, and once for broken links.

    Raises:
        UserError: there is no such folder, it cannot be listed, or it holds something else: folders that are
            no class, a class without images, images outside of the folders of the classes.
    """
    labels, examples = _labels_by_folder_name(class_names)
    folders = _class_folders(folder, labels, examples)
    return {file: labels[class_name_of(path.name)] for path, file in _images_below(folders, report)}


def _class_folders(folder: Path, labels: Mapping[str, int], examples: Sequence[str]) -> list[Path]:
    """Returns the folders in `folder`, each of which has a name in `labels`.

    Raises:
        UserError: as `labelled_images`.
    """
    expected = f"expected one for each class, named as {' or '.join(examples)}"
    try:
        entries = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    except OSError as error:
        raise UserError(
            f"{printable(folder)}: cannot be listed ({error.strerror}); expected a folder with a"
            " folder for each class"
        ) from None
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        raise UserError(f"{printable(folder)}: has no folders in it; {expected}, with its images")
    if unknown := [printable(path.name) for path in folders if class_name_of(path.name) not in labels]:
        raise UserError(
            f"{printable(folder)}: has folders that are no class of these weights:"
            f" {first_of(unknown, NAMES_SHOWN)}; {expected}"
        )
    if loose := [
        path.name for path in entries if path.suffix.lower() in image_extensions() and path.is_file()
    ]:
        raise UserError(
            f"{printable(folder)}: has {len(loose)} images outside of the classes' folders, such as"
            f" {printable(loose[0])}; expected none: move them"
        )
    return folders


def _images_below(
    folders: Sequence[Path], report: Callable[[UserError], None] | None
) -> list[tuple[Path, Path]]:
    """Returns each of `folders` with each image file below it, sorted.

    Raises:
        UserError: a folder has none, or cannot be listed.
    """
    images: list[tuple[Path, Path]] = []
    kinds: Counter[str] = Counter()
    broken = 0
    for folder in folders:
        names, passed_over = Folder(str(folder)).entries()
        files = [folder / name for name in names if not name.endswith("/")]
        readable = sorted(file for file in files if file.suffix.lower() in image_extensions())
        others = Counter(kind for file in files if (kind := unreadable_kind(file.name)))
        if not readable:
            content = f"only {describe_kinds(others)}, which cannot be read" if others else "no image files"
            raise UserError(
                f"{printable(folder)}: the folder has {content}, expected some such as *.jpg or *.png;"
                " add some, or delete it"
            )
        images += [(folder, file) for file in readable]
        kinds += others
        broken += passed_over["broken links"]
    if report is not None:
        report_unreadable(kinds, folders, report)
        if broken:
            place = printable(folders[0].parent)
            report(UserError(f"{place}: holds {broken:,} broken links, expected none; replace them by files"))
    return images


def _labels_by_folder_name(class_names: tuple[str, ...]) -> tuple[dict[str, int], Sequence[str]]:
    """Returns the label for every name that a folder may have, and examples of such names."""
    labels = {class_name_of(name): label for label, name in enumerate(class_names)}
    if synsets := imagenet.synsets_of(class_names):
        for label, names in enumerate(imagenet.classes().items()):
            labels = dict.fromkeys(names, label) | labels
        return labels, (synsets[0], imagenet.classes()[synsets[0]])
    return labels, class_names[:NAMES_SHOWN]


def evaluate_crops(
    classifier: Classifier, batches: Iterable[tuple[list[Path], np.ndarray]], labels: dict[Path, int]
) -> dict[str, Any]:
    """Counts how often the right class is the most probable one, or among the five most probable ones.

    `batches` yields files and their crops, uint8 [N, crops, S, S, 3], the central crop first. `1-crop` uses
    that crop alone. If there are ten, `10-crop` uses the mean of their probabilities (He et al. 2015,
    arXiv:1512.03385, section 3.4). Only one batch is held at a time.

    Returns the number of `images`, and for both of them `top1_accuracy`, `top1_error`, `top5_accuracy` and
    `top5_error`, as shares. Among equally probable classes, the first counts as the more probable.
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
    result: dict[str, Any] = {"images": images}
    for (name, k), right in hits.items():
        shares = {f"top{k}_accuracy": right / images, f"top{k}_error": (images - right) / images}
        result[name] = result.get(name, {}) | shares
    return result
