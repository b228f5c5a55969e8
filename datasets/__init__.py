"""Where images come from: `load` gets a data set by name, `train_val_split` holds out validation.

`config` is the `data` part of an experiment's config throughout.
"""

import difflib
from typing import TYPE_CHECKING

import numpy as np

from datasets.splits import stratified_fold, stratified_split
from datasets.types import Dataset, Split
from errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["NAMES", "Dataset", "Split", "extend_training", "load", "train_val_split"]

NAMES = ("signs", "rendered")


def load(config: "ConfigDict") -> Dataset:
    """Loads the data set that `config.name` names.

    "signs" reads `config.dir` ("" for the default places); "rendered" takes `config.seed`,
    `config.train_size`, `config.test_size`, `config.image_size` (pixels) and `config.variety`.

    Returns: images uint8 `[N, H, W, 3]`, labels int32 `[N]`, class names.

    Raises: UserError for an unknown name, for whatever the source cannot read or make, where its images
    are not of `config.image_size`, or its classes not those of the rendered hands that are to be added.
    """
    dataset = _load_source(config)
    height, width = dataset.train.images.shape[1:3]
    if (height, width) != (config.image_size, config.image_size):
        raise UserError(
            f"data.image_size: found {config.image_size}, but {config.name} has images of {height}x{width};"
            f" set it to {height}"
        )
    if config.rendered_size:
        _check_shows_digits(dataset, config)
    return dataset


def _check_shows_digits(dataset: Dataset, config: "ConfigDict") -> None:
    from datasets.rendered import CLASS_NAMES

    if dataset.class_names != CLASS_NAMES:
        raise UserError(
            f"data.rendered_size={config.rendered_size}: adds hands that show {', '.join(CLASS_NAMES)}, but"
            f" the classes of {config.name} are {', '.join(dataset.class_names)}; set it to 0"
        )


def _load_source(config: "ConfigDict") -> Dataset:
    # Each source is imported when asked for, as each brings libraries that the other does without.
    match config.name:
        case "signs":
            from datasets import signs

            return signs.load(config.dir)
        case "rendered":
            from datasets import rendered

            return rendered.load(
                seed=config.seed,
                train_size=config.train_size,
                test_size=config.test_size,
                image_size=config.image_size,
                variety=config.variety,
            )
    nearest = difflib.get_close_matches(str(config.name), NAMES, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these"
    raise UserError(f"data.name: found {config.name!r}; expected {' or '.join(map(repr, NAMES))}; {hint}")


def train_val_split(split: Split, config: "ConfigDict") -> tuple[Split, Split | None]:
    """Splits training images into those to train on and those to validate on.

    `config.val_fraction` holds out that share of each class; `config.folds` instead cuts the images
    into so many folds and holds out number `config.fold`. Both draw by `config.split_seed`; with
    both 0 there is no validation split.

    Returns: the training split and the validation split, or `split` itself and None.

    Raises: UserError where both are set, or one is out of its range.
    """
    if config.val_fraction and config.folds:
        raise UserError(
            f"data.val_fraction and data.folds: found {config.val_fraction} and {config.folds}; "
            "expected one of them at most; set the other to 0"
        )
    if config.fold and not config.folds:
        raise UserError(
            f"data.fold: found {config.fold} while data.folds is 0; expected data.folds to say how "
            "many folds there are; set it, or set data.fold to 0"
        )
    if config.folds:
        kept, held_out = stratified_fold(split.labels, config.fold, config.folds, config.split_seed)
    elif config.val_fraction:
        kept, held_out = stratified_split(split.labels, config.val_fraction, config.split_seed)
    else:
        return split, None
    return _take(split, kept), _take(split, held_out)


def extend_training(split: Split, config: "ConfigDict", with_mattes: bool) -> Split:
    """The images of `split` and, after them, `config.rendered_size` hands rendered by `config.seed`.

    `with_mattes` asks for mattes, which those of photographs get by their colours.

    Raises: UserError where a size is out of range.
    """
    if with_mattes and split.mattes is None:
        from datasets.matte import skin_mattes

        split = split._replace(mattes=skin_mattes(split.images))
    elif split.mattes is not None and not with_mattes:
        split = split._replace(mattes=None)
    if not config.rendered_size:
        return split
    from datasets import rendered

    hands = rendered.load(
        seed=config.seed,
        train_size=config.rendered_size,
        test_size=1,
        image_size=config.image_size,
        variety=config.variety,
    ).train
    return Split(
        np.concatenate([split.images, hands.images]),
        np.concatenate([split.labels, hands.labels]),
        np.concatenate([split.mattes, hands.mattes]) if with_mattes else None,
    )


def _take(split: Split, indices: np.ndarray) -> Split:
    mattes = None if split.mattes is None else split.mattes[indices]
    return Split(split.images[indices], split.labels[indices], mattes)
