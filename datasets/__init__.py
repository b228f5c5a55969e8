"""Where images come from.

`load` gets a data set by name, `train_val_split` holds out images for validation, and `extend_training` adds
rendered hands to the training images. Everywhere in this room `config` is the `data` part of an experiment's
config.
"""

import difflib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from datasets.lazy_images import LazyImages
from datasets.splits import draw_validation
from datasets.types import Dataset, Split
from resnet.errors import UserError
from resnet.files import last_name

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = [
    "NAMES",
    "Dataset",
    "Split",
    "at_image_size",
    "class_names",
    "display_name",
    "extend_training",
    "load",
    "splits_by_name",
    "train_val_split",
]

NAMES = ("signs", "rendered", "folder")

# Sources are imported inside the functions, because each brings libraries that the others do without.


def load(config: "ConfigDict") -> Dataset:
    """Loads the data set that `config.name` names.

    "signs" reads the files in `config.dir`. "rendered" renders by `config.seed`, `config.train_size`,
    `config.test_size` and `config.variety`. "folder" reads the images of the user in `config.dir`. Images are
    prepared as for a prediction; see `resnet.images.fit_square`. With `config.folds_of` "all", the test
    images of SIGNS follow its training images, and no test split is left.

    Returns: images uint8 `[N, image_size, image_size, 3]`, labels int32 `[N]`, class names. Training images
    of a folder have the side `config.store_size`, if that is not 0.

    Raises: UserError for an unknown name, for data that cannot be read or rendered, and for rendered hands
    that cannot be added to the data set.
    """
    dataset = _load_source(config)
    if config.rendered_size:
        _check_takes_hands(dataset, config)
    if config.name == "folder":
        return dataset  # Its images have been prepared as they were decoded.
    if config.folds_of == "all" and dataset.test is not None:
        dataset = dataset._replace(train=dataset.train.followed_by(dataset.test), test=None)
    return dataset._replace(
        train=_prepared(dataset.train, config),
        test=None if dataset.test is None else _prepared(dataset.test, config),
    )


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
        case "folder":
            from datasets import folder

            return folder.class_names(config)
    raise _unknown_name(config)


def display_name(config: "ConfigDict") -> str:
    """Returns the name to show for the data set: the name of its folder, or else `config.name`."""
    return last_name(config.dir) if config.name == "folder" else config.name


def splits_by_name(dataset: Dataset, config: "ConfigDict") -> dict[str, Split]:
    """Returns the splits train, val and test of `dataset`, those that there are, at `config.image_size`.

    Raises: UserError as `train_val_split`.
    """
    train, val = train_val_split(dataset, config)
    splits = {"train": train, "val": val, "test": dataset.test}
    return {name: at_image_size(split, config) for name, split in splits.items() if split is not None}


def train_val_split(dataset: Dataset, config: "ConfigDict") -> tuple[Split, Split | None]:
    """Returns the images of `dataset` to train on and those to validate on.

    A data set that brings validation images keeps them, and `datasets.folder` has drawn its own. Otherwise
    they are drawn from the training images, see `datasets.splits.draw_validation`. If none are drawn, there
    is no validation split. In folds of all images, near duplicates stay together.

    Raises: UserError as `draw_validation`.
    """
    if dataset.val is not None or config.name == "folder":
        return dataset.train, dataset.val
    train, val = draw_validation(dataset.train.labels, config, _twins_of_folds(dataset.train, config))
    if not len(val):
        return dataset.train, None
    return dataset.train.subset(train), dataset.train.subset(val)


def extend_training(split: Split, config: "ConfigDict", with_mattes: bool) -> Split:
    """Returns the images of `split`, followed by `config.rendered_size` hands rendered by `config.seed`.

    With `with_mattes` all images get mattes. Photographs get theirs by colour.

    Raises: UserError for a number out of its range, and for mattes of streamed images.
    """
    if with_mattes and split.mattes is None:
        if isinstance(split.images, LazyImages):
            raise UserError(
                "config.augment.background: needs the mattes of all images, which streamed ones do not have;"
                " set it to 0, or config.data.placement to device"
            )
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
        image_size=split.images.shape[1],
        variety=config.variety,
    ).train
    if split.images.shape[1] == config.image_size:  # Images that are stored larger are cropped in training.
        hands = _prepared(hands, config)
    return split.followed_by(hands)


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
        case "folder":
            from datasets import folder

            return folder.load(config)
    raise _unknown_name(config)


def _twins_of_folds(train: Split, config: "ConfigDict") -> np.ndarray | None:
    """Returns the group of near duplicates of each image of `train`, int `[N]`, if it is to stay together.

    SIGNS was split at random, so its test images have twins among the others.
    """
    if config.folds_of != "all":
        return None
    from datasets.duplicates import twin_groups

    return twin_groups(np.asarray(train.images))


def _unknown_name(config: "ConfigDict") -> UserError:
    nearest = difflib.get_close_matches(str(config.name), NAMES, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "choose one of them"
    return UserError(f"config.data.name={config.name}: expected {' or '.join(map(repr, NAMES))}; {hint}")


def _check_takes_hands(dataset: Dataset, config: "ConfigDict") -> None:
    """Raises UserError if rendered hands cannot be added: to other classes, or to images of such a size."""
    from datasets.rendered.render import CLASS_NAMES, IMAGE_SIZES, check_whole_number

    size = "store_size" if config.store_size else "image_size"
    check_whole_number(f"config.data.{size}", config[size], *IMAGE_SIZES)
    if dataset.class_names != CLASS_NAMES:
        digits, others = ", ".join(CLASS_NAMES), ", ".join(dataset.class_names)
        raise UserError(
            f"config.data.rendered_size={config.rendered_size}: adds hands that show {digits}, but the"
            f" classes of {config.name} are {others}; set it to 0"
        )


def at_image_size(split: Split, config: "ConfigDict") -> Split:
    """Returns `split` of what `load` returned, at `config.image_size`; itself if it has that size.

    Images that `load` stored larger are prepared as for a prediction. All others are already.
    """
    size = config.image_size
    return split if split.images.shape[1:3] == (size, size) else _prepared(split, config)


def _prepared(split: Split, config: "ConfigDict") -> Split:
    """Returns `split` as a prediction prepares images; itself if that changes nothing.

    Mattes are resized with their images.
    """
    size = config.image_size
    if split.images.shape[1:3] == (size, size) and config.crop == 1:
        return split
    from resnet.images import fit_square

    square = partial(fit_square, size=size, crop=config.crop, fit=config.fit)
    if isinstance(split.images, LazyImages):
        return split._replace(images=split.images.map(square, size), digests=None)

    def resized(pictures: np.ndarray) -> np.ndarray:
        return np.stack([square(picture) for picture in pictures])

    mattes = None
    if split.mattes is not None:
        # Mattes are resized as grey pictures of three equal channels.
        mattes = resized(np.repeat(split.mattes[..., None], 3, axis=-1))[..., 0]
    return split._replace(images=resized(split.images), mattes=mattes, digests=None)
