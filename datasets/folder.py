"""A user's own images: a folder, an archive or a table, as `datasets.listing` describes them."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datasets import decoding
from datasets.decoding import Square
from datasets.duplicates import twin_groups
from datasets.image_cache import load_or_decode
from datasets.lazy_images import Images, select
from datasets.listing import ImageFile, Listing, check_classes, list_images
from datasets.record_folder import RecordFolder
from datasets.splits import draw_validation, stratified_split
from datasets.types import Dataset, Split
from resnet.errors import UserError
from resnet.files import last_name, printable
from resnet.memory import gigabytes, machine_memory

if TYPE_CHECKING:
    from ml_collections import ConfigDict

MEMORY_SHARE = 0.8  # of the memory, that images may take at most
AUTO_SHARE = 0.4  # of the memory; more images are streamed unless config.placement says otherwise
MAX_WARNINGS = 5  # unreadable images that are named


class _Pictures(NamedTuple):
    """The readable ones of some files: images `[N, S, S, 3]`, their digests, and their places in the listing.

    `unreadable` is what is wrong with the others, by their place in the listing.
    """

    images: Images
    digests: list[str]
    places: np.ndarray
    unreadable: dict[int, str]


def load(config: "ConfigDict") -> Dataset:
    """Loads the images at `config.dir`, and draws the splits that they do not bring with them.

    Images become squares as for a prediction, by `config.image_size`, `config.crop` and `config.fit`. With
    `config.store_size` those for training are whole squares of that size instead. Near duplicates stay on one
    side when images are held out: `config.test_fraction` of those that have no splits, and validation images
    as `datasets.splits.draw_validation` says, if there are none yet. So no others are to be drawn from the
    training images.

    Unreadable images are left out with a warning, or refused if `config.unreadable` says so. A line on stderr
    says what the data set holds, as stdout belongs to the results of a command.

    Returns: images uint8 `[N, S, S, 3]`, labels int32 `[N]` and files of each split, None for one without.

    Raises: UserError for a place that `list_images` refuses, unreadable images that are refused or all that
    a class has, fields that do not go with the data, and images that do not fit where they are to lie.
    """
    listing = list_images(os.path.expanduser(config.dir))
    splits = np.array([file.split for file in listing.files], "U5")
    _check_fit(listing, config)
    _check_folds(splits, listing, config)
    square = Square(config.image_size, config.crop, config.fit)
    stored = _training_square(config)
    lazy = _is_streamed(len(listing.files), stored.size, config)
    # Together in one pass if possible, as an archive may be read as a whole each time.
    is_wanted = (splits == "") | (splits == "train") | (stored == square)
    decode = partial(_decode, listing, path=config.dir, lazy=lazy)
    pool = decode(np.flatnonzero(is_wanted), stored)
    check_classes(listing, pool.unreadable, config.dir)
    _draw_splits(splits, pool, listing, config)
    held_out = pool
    if stored != square:
        held_out = decode(np.flatnonzero(splits != "train"), square)
    unreadable = _report_unreadable(pool.unreadable | held_out.unreadable, listing, config)
    _warn_of_conflicts(pool, listing)
    train = _split("train", pool, splits, listing)
    val, test = (_split(name, held_out, splits, listing) for name in ("val", "test"))
    dataset = Dataset(
        train,
        test if len(test.labels) else None,
        listing.class_names,
        val if len(val.labels) else None,
        tuple(unreadable),
    )
    print(describe(dataset, listing, config), file=sys.stderr, flush=True)
    return dataset


def class_names(config: "ConfigDict") -> tuple[str, ...]:
    """Returns the class names of the images at `config.dir`, without decoding any.

    Raises: UserError for a place that `list_images` refuses.
    """
    return list_images(os.path.expanduser(config.dir)).class_names


def training_digests(config: "ConfigDict", files: Sequence[str]) -> list[str]:
    """Returns the digests of `files` at `config.dir`, as prepared for training.

    A file that cannot be read has "".

    Raises: UserError for a place that `list_images` refuses.
    """
    source = list_images(os.path.expanduser(config.dir)).source
    return decoding.decode(files, source, _training_square(config), decoding.Nowhere()).digests


def describe(dataset: Dataset, listing: Listing, config: "ConfigDict") -> str:
    """Says in one line what a data set holds, which fields are not used, and what is not part of it."""
    sizes = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    counts = {name: len(split.labels) for name, split in sizes.items() if split is not None}
    total = sum(counts.values())
    name = last_name(config.dir)
    line = (
        f"{printable(name)}: {total:,} images of {len(listing.class_names)} classes in {listing.layout}:"
        f" {', '.join(f'{count:,} {split}' for split, count in counts.items())}"
    )
    if dataset.test is None and dataset.val is None:
        line += "; none held out"
        if not (config.val_fraction or config.test_fraction):
            line += ", as config.data.val_fraction and config.data.test_fraction are 0"
    elif dataset.test is None:
        line += "; no test images, so validation is what is measured"
    given = {file.split for file in listing.files}
    is_unused = {"test_fraction": given != {""}, "val_fraction": "val" in given}
    if unused := [f"data.{name}" for name in is_unused if is_unused[name] and config[name]]:
        line += f"; it has splits, so {' and '.join(unused)} {'are' if len(unused) > 1 else 'is'} not used"
    passed_over = dict(listing.passed_over) | {"that cannot be read": len(listing.files) - total}
    reasons = [f"{count:,} {reason}" for reason, count in passed_over.items() if count]
    return f"{line}; passed over: {', '.join(reasons)}" if reasons else line


def _training_square(config: "ConfigDict") -> Square:
    """Returns how a picture becomes a training image."""
    if config.store_size > config.image_size:
        return Square(config.store_size, 1.0, config.fit)
    return Square(config.image_size, config.crop, config.fit)


def _check_fit(listing: Listing, config: "ConfigDict") -> None:
    """Raises UserError for images that were packed with another fit than `config.fit`."""
    fit = listing.source.fit if isinstance(listing.source, RecordFolder) else ""
    if fit not in ("", config.fit):
        raise UserError(
            f"config.data.fit={config.fit}: {printable(config.dir)} was packed with --fit={fit}, expected the"
            f" same; set it to {fit}, or pack the images again with --fit={config.fit}"
        )


def _check_folds(splits: np.ndarray, listing: Listing, config: "ConfigDict") -> None:
    """Raises UserError for folds of images that bring their own validation images."""
    if config.folds and (splits == "val").any():
        raise UserError(
            f"config.data.folds={config.folds}: {printable(config.dir)} has {listing.layout}, whose"
            " validation images are used as they are; set it to 0, or leave these out"
        )


def _is_streamed(count: int, size: int, config: "ConfigDict") -> bool:
    """Returns whether `count` images of `size` pixels a side are not to be held in memory.

    Raises: UserError if `config.placement` wants them there, but they do not fit.
    """
    needed, available = 3 * count * size**2, machine_memory()
    if config.placement == "device" and needed > MEMORY_SHARE * available:
        raise UserError(
            f"{printable(config.dir)}: {count:,} images of {size}x{size} take {gigabytes(needed)}, expected"
            f" at most {MEMORY_SHARE:.0%} of the {gigabytes(available)} of memory here, as"
            " config.data.placement is device; leave it at auto, which streams them"
        )
    return config.placement == "stream" or (config.placement == "auto" and needed > AUTO_SHARE * available)


def _decode(listing: Listing, places: np.ndarray, square: Square, *, path: str, lazy: bool) -> _Pictures:
    """Decodes the files at `places` in the listing."""
    if not len(places):
        return _Pictures(np.empty((0, square.size, square.size, 3), np.uint8), [], places, {})
    names = [listing.files[place].name for place in places]
    place = os.path.abspath(os.path.expanduser(path))
    decoded = load_or_decode(names, listing.source, square, place, lazy=lazy)
    unreadable = {int(places[i]): error for i, error in decoded.unreadable.items()}
    return _Pictures(decoded.images, decoded.digests, np.delete(places, [*decoded.unreadable]), unreadable)


def _labels(places: np.ndarray, listing: Listing) -> np.ndarray:
    return np.array([listing.files[place].label for place in places], np.int32)


def _draw_splits(splits: np.ndarray, pool: _Pictures, listing: Listing, config: "ConfigDict") -> None:
    """Writes into `splits` where images go that are in none, and which training images are for validation.

    Splits that the images bring with them stay as they are.
    """
    draws_test = config.test_fraction > 0 and not splits.any()
    draws_val = bool(config.val_fraction or config.folds) and not (splits == "val").any()
    splits[splits == ""] = "train"
    if not (draws_test or draws_val):
        return
    rows = np.flatnonzero(splits[pool.places] == "train")
    groups = _groups(_rows(pool.images, rows))
    if draws_test:
        labels = _labels(pool.places[rows], listing)
        train, test = stratified_split(
            labels, config.test_fraction, config.split_seed, groups, field="test_fraction"
        )
        splits[pool.places[rows[test]]] = "test"
        rows, groups = rows[train], groups[train]
    if draws_val:
        _, val = draw_validation(_labels(pool.places[rows], listing), config, groups)
        splits[pool.places[rows[val]]] = "val"


def _groups(images: np.ndarray) -> np.ndarray:
    """Returns which images are to stay on one side, int `[N]`: near duplicates.

    Where most images are near duplicates of one another, only equal ones stay together, with a warning.
    """
    groups = twin_groups(images)
    largest = int(np.bincount(groups).max())
    if largest <= len(images) / 2:
        return groups
    print(
        f"warning: {largest:,} of {len(images):,} images are near duplicates of one another, too many to keep"
        " them in one split; only equal images are kept together",
        file=sys.stderr,
        flush=True,
    )
    return twin_groups(images, 0)


def _report_unreadable(unreadable: dict[int, str], listing: Listing, config: "ConfigDict") -> list[str]:
    """Warns of unreadable images, and returns what is wrong with each of them.

    Raises: UserError if they are refused.
    """
    errors = [error for _, error in sorted(unreadable.items())]
    if not errors:
        return []
    if config.unreadable == "refuse":
        raise UserError(
            f"{errors[0]} ({len(errors):,} of {len(listing.files):,} images cannot be read;"
            " config.data.unreadable=skip leaves them out)"
        )
    lines = [f"warning: {error}" for error in errors[:MAX_WARNINGS]]
    if len(errors) > MAX_WARNINGS:
        more = len(errors) - MAX_WARNINGS
        lines.append(f"warning: and {more:,} more images that cannot be read; --mode=audit lists all")
    print("\n".join(lines), file=sys.stderr, flush=True)
    return errors


def _warn_of_conflicts(pictures: _Pictures, listing: Listing) -> None:
    """Prints a warning if images of different classes have the same pixels."""
    firsts: dict[str, ImageFile] = {}
    pairs: list[tuple[ImageFile, ImageFile]] = []
    for digest, place in zip(pictures.digests, pictures.places, strict=True):
        file = listing.files[place]
        first = firsts.setdefault(digest, file)
        if first.label != file.label:
            pairs.append((first, file))
    if pairs:
        names = " and ".join(printable(file.name) for file in pairs[0])
        print(
            f"warning: the same image in two classes: {names}; {len(pairs):,} such"
            f" {'pair' if len(pairs) == 1 else 'pairs'} in all",
            file=sys.stderr,
            flush=True,
        )


def _split(name: str, pictures: _Pictures, splits: np.ndarray, listing: Listing) -> Split:
    rows = np.flatnonzero(splits[pictures.places] == name)
    places = pictures.places[rows]
    files = np.array([listing.files[place].name for place in places], str)
    digests = np.array(pictures.digests, str)[rows]
    return Split(_rows(pictures.images, rows), _labels(places, listing), files=files, digests=digests)


def _rows(images: Images, rows: np.ndarray) -> Images:
    """Returns `images[rows]`, for increasing rows without a copy if none is left out between them."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return select(images, slice(rows[0], rows[-1] + 1))
    return select(images, rows)
