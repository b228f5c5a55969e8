"""Stratified splits and folds: disjoint, complete, in proportion, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

import datasets
from configs import default
from datasets import Split, rendered
from datasets.splits import stratified_fold, stratified_split
from errors import UserError

label_arrays = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(np.array)


@settings(deadline=None)
@given(label_arrays, st.floats(0.01, 0.99), st.integers(0, 1000))
def test_split_takes_each_class_share_and_leaves_one_in_train(labels, fraction, seed):
    counts = np.bincount(labels, minlength=6)
    expected = [min(int(fraction * n + 0.5), max(n - 1, 0)) for n in counts]
    if sum(expected) == 0:
        with pytest.raises(UserError, match=r"data\.val_fraction"):
            stratified_split(labels, fraction, seed)
        return

    train, val = stratified_split(labels, fraction, seed)

    assert np.bincount(labels[val], minlength=6).tolist() == expected
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    assert set(labels[train]) == set(labels)


@settings(deadline=None)
@given(st.data(), st.integers(2, 8), st.integers(0, 1000))
def test_folds_hold_every_image_once_and_each_class_evenly(data, folds, seed):
    counts = data.draw(st.lists(st.integers(folds, 30), min_size=1, max_size=6))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))

    held_out = []
    for fold in range(folds):
        train, val = stratified_fold(labels, fold, folds, seed)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
        assert (np.diff(train) > 0).all()
        assert (np.diff(val) > 0).all()
        held_out.append(val)

    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(len(labels)))
    shares = np.array([np.bincount(labels[val], minlength=len(counts)) for val in held_out])
    assert (np.ptp(shares, axis=0) <= 1).all()
    assert np.ptp(shares.sum(axis=1)) <= 1


def test_the_seed_decides_which_images():
    labels = np.repeat(np.arange(6), 30)
    for first, again, other in (
        [stratified_split(labels, 0.2, seed)[1] for seed in (3, 3, 4)],
        [stratified_fold(labels, 1, 5, seed)[1] for seed in (3, 3, 4)],
    ):
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


def test_held_out_images_are_not_simply_the_first_ones():
    labels = np.repeat(np.arange(6), 30)
    _, val = stratified_split(labels, 0.5, 0)
    assert (val % 30).max() >= 15


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y: stratified_split(y, -0.1, 0), ["data.val_fraction", "-0.1"]),
        (lambda y: stratified_split(y, 1.0, 0), ["data.val_fraction", "1.0", "below 1"]),
        (lambda y: stratified_split(y, float("nan"), 0), ["data.val_fraction", "nan"]),
        (lambda y: stratified_split(y, 0.01, 0), ["data.val_fraction", "0.01", "12"]),
        (lambda y: stratified_split(y, 0.5, -1), ["data.split_seed", "-1"]),
        (lambda y: stratified_fold(y, 0, 1, 0), ["data.folds", "found 1", "2 or more"]),
        (lambda y: stratified_fold(y, 0, -3, 0), ["data.folds", "-3"]),
        (lambda y: stratified_fold(y, 2, 2, 0), ["data.fold:", "found 2", "0 to 1"]),
        (lambda y: stratified_fold(y, -1, 2, 0), ["data.fold:", "-1"]),
        (lambda y: stratified_fold(y, 0, 3, 0), ["data.folds", "found 3", "at most 2"]),
        (lambda y: stratified_fold(y, 0, 2, -1), ["data.split_seed", "-1"]),
    ],
)
def test_values_out_of_range_are_named_in_one_line(call, words):
    with pytest.raises(UserError) as caught:
        call(np.arange(12) % 6)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def _config(**changes) -> ConfigDict:
    return ConfigDict({"val_fraction": 0.0, "fold": 0, "folds": 0, "split_seed": 0} | changes)


@pytest.fixture
def split() -> Split:
    """60 images `[60, 2, 2, 3]` whose pixels are the image's number, labels in turn."""
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 2, 2, 3))
    return Split(images, (np.arange(60) % 6).astype(np.int32))


def test_no_validation_split_by_default(split):
    train, val = datasets.train_val_split(split, _config())
    assert train is split
    assert val is None


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [({"val_fraction": 0.2}, (48, 12)), ({"folds": 5, "fold": 4}, (48, 12))],
)
def test_images_keep_their_labels(split, changes, sizes):
    train, val = datasets.train_val_split(split, _config(**changes))
    assert (len(train.images), len(val.images)) == sizes
    for part in (train, val):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 6, part.labels)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32
    numbers = np.concatenate([train.images, val.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(numbers), np.arange(60))


def test_config_fields_reach_the_split(split):
    def held_out(**changes):
        return datasets.train_val_split(split, _config(**changes))[1].images[:, 0, 0, 0].tolist()

    assert held_out(val_fraction=0.2) != held_out(val_fraction=0.2, split_seed=1)
    assert held_out(folds=5) != held_out(folds=5, split_seed=1)
    assert held_out(folds=5, fold=0) != held_out(folds=5, fold=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_fraction": 0.1, "folds": 5}, ["data.val_fraction", "data.folds", "0.1 and 5"]),
        ({"fold": 2}, ["data.fold:", "found 2", "data.folds is 0"]),
        ({"val_fraction": 1.5}, ["data.val_fraction", "1.5"]),
        ({"folds": 1}, ["data.folds", "found 1"]),
    ],
)
def test_config_that_cannot_be_split_by_is_named_in_one_line(split, changes, words):
    with pytest.raises(UserError) as caught:
        datasets.train_val_split(split, _config(**changes))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_training_is_extended_by_rendered_hands_with_mattes_for_all() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (7, 32, 32, 3), np.uint8), np.arange(7, dtype=np.int32) % 6)
    config = default.get_config().data
    assert datasets.extend_training(split, config, with_mattes=False) is split
    config.update(rendered_size=13, image_size=32, variety=0.4)
    extended = datasets.extend_training(split, config, with_mattes=True)
    hands = rendered.load(seed=0, train_size=13, test_size=1, image_size=32, variety=0.4).train
    np.testing.assert_array_equal(extended.images[:7], split.images)
    np.testing.assert_array_equal(extended.images[7:], hands.images)
    np.testing.assert_array_equal(extended.labels, [*split.labels, *hands.labels])
    np.testing.assert_array_equal(extended.mattes[7:], hands.mattes)
    assert datasets.extend_training(split, config, with_mattes=False).mattes is None
