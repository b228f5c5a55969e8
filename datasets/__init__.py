"""Where images come from.

`load` gets a data set by name, `train_val_split` holds out images for validation, and `extend_training` adds
rendered hands to the training images. Everywhere in this room `config` is the `data` part of an experiment's
config.
"""

import difflib
from typing import TYPE_CHECKING

import numpy as np

from datasets.splits import stratified_fold, stratified_split
from datasets.types import Dataset, Split
from resnet.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = [
    "NAMES",
    "Dataset",
    "Split",
    "class_names",
    "extend_training",
    "load",
    "load_splits",
    "splits_by_name",
    "train_val_split",
]

NAMES = ("signs", "rendered")

# Sources are imported inside the functions, because each brings libraries that the others do without.


def load(config: "ConfigDict") -> Dataset:
    """Loads the data set that `config.name` names.

    "signs" reads the files in `config.dir`. "rendered" renders by `config.seed`, `config.train_size`,
    `config.test_size` and `config.variety`. Images of another size than `config.image_size` are prepared as
    for a prediction: their shorter side is resized and their centre cut out.

    Returns: images uint8 `[N, image_size, image_size, 3]`, labels int32 `[N]`, class names.

    Raises: UserError for an unknown name, for data that cannot be read or rendered, and for rendered hands
    that are to be added to a data set of other classes.
    """
    dataset = _load_source(config)
    if config.rendered_size:
        _check_shows_digits(dataset, config)
    return dataset._replace(train=_resize(dataset.train, config), test=_resize(dataset.test, config))


def class_names(config: "ConfigDict") -> tuple[str, ...]:
    """Returns the class names of the data set that `config.name` names, without loading images.

    SIGNS without its files has the class names of the original, and nothing is downloaded.

    Raises: UserError for an unknown name or a file that cannot be read.
    """
    match config.name:
        case "signs":
            from datasets import signs

            return signs.class_names(config.dir)
        case "rendered":
            from datasets.rendered import render

            return render.CLASS_NAMES
    raise _unknown_name(config)


def load_splits(config: "ConfigDict") -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the splits train, val (if images are held out) and test by name, and the class names.

    Raises: UserError as `load` and `train_val_split`.
    """
    dataset = load(config)
    return splits_by_name(dataset, config), dataset.class_names


def splits_by_name(dataset: Dataset, config: "ConfigDict") -> dict[str, Split]:
    """Returns the splits train, val (if images are held out) and test of `dataset`.

    Raises: UserError as `train_val_split`.
    """
    train, val = train_val_split(dataset.train, config)
    return {"train": train} | ({} if val is None else {"val": val}) | {"test": dataset.test}


def train_val_split(split: Split, config: "ConfigDict") -> tuple[Split, Split | None]:
    """Splits training images into images to train on and images to validate on.

    `config.val_fraction` is the share of each class to hold out. `config.folds` cuts the images into that
    many folds instead and holds out number `config.fold`. Both draw by `config.split_seed`. With both 0 there
    is no validation split.

    Returns: the training split and the validation split, or `split` itself and None.

    Raises: UserError if both are set, or one is out of its range.
    """
    if config.val_fraction and config.folds:
        raise UserError(
            f"config.data.val_fraction={config.val_fraction}: cannot be combined with"
            f" config.data.folds={config.folds}; set one of them to 0"
        )
    if config.fold and not config.folds:
        raise UserError(
            f"config.data.fold={config.fold}: expected 0, as config.data.folds=0 makes no folds; set"
            " config.data.folds to their number, or config.data.fold to 0"
        )
    if config.folds:
        train, val = stratified_fold(split.labels, config.fold, config.folds, config.split_seed)
    elif config.val_fraction:
        train, val = stratified_split(split.labels, config.val_fraction, config.split_seed)
    else:
        return split, None
    return split.subset(train), split.subset(val)


def extend_training(split: Split, config: "ConfigDict", with_mattes: bool) -> Split:
    """Returns the images of `split`, followed by `config.rendered_size` hands rendered by `config.seed`.

    With `with_mattes` all images get mattes. Photographs get theirs by colour.

    Raises: UserError for a number out of its range.
    """
    if with_mattes and split.mattes is None:
        from datasets.matte import skin_mattes

        split = split._replace(mattes=skin_mattes(split.images))
    elif split.mattes is not None and not with_mattes:
        split = split._replace(mattes=None)
    if not config.rendered_size:
        return split
    from datasets.rendered import dataset, render

    render.check_whole_number("config.data.rendered_size", config.rendered_size, 0)
    hands = dataset.load(
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


def _load_source(config: "ConfigDict") -> Dataset:
    match config.name:
        case "signs":
            from datasets import signs

            return signs.load(config.dir)
        case "rendered":
            from datasets.rendered import dataset

            return dataset.load(
                seed=config.seed,
                train_size=config.train_size,
                test_size=config.test_size,
                image_size=config.image_size,
                variety=config.variety,
            )
    raise _unknown_name(config)


def _unknown_name(config: "ConfigDict") -> UserError:
    nearest = difflib.get_close_matches(str(config.name), NAMES, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "choose one of them"
    return UserError(f"config.data.name={config.name}: expected {' or '.join(map(repr, NAMES))}; {hint}")


def _check_shows_digits(dataset: Dataset, config: "ConfigDict") -> None:
    """Raises UserError if rendered hands would be added to a data set of other classes."""
    from datasets.rendered.render import CLASS_NAMES

    if dataset.class_names != CLASS_NAMES:
        digits, others = ", ".join(CLASS_NAMES), ", ".join(dataset.class_names)
        raise UserError(
            f"config.data.rendered_size={config.rendered_size}: adds hands that show {digits}, but the"
            f" classes of {config.name} are {others}; set it to 0"
        )


def _resize(split: Split, config: "ConfigDict") -> Split:
    """Resizes images and mattes to `config.image_size`, and returns `split` itself if they have that size."""
    size = config.image_size
    if split.images.shape[1:3] == (size, size):
        return split
    from resnet.images import resize_and_crop

    def resized(pictures: np.ndarray) -> np.ndarray:
        return np.stack([resize_and_crop(picture, size, config.crop) for picture in pictures])

    mattes = None
    if split.mattes is not None:
        # Mattes are resized as grey pictures of three equal channels.
        mattes = resized(np.repeat(split.mattes[..., None], 3, axis=-1))[..., 0]
    return split._replace(images=resized(split.images), mattes=mattes)
