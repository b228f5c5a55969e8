"""Stratified splits and folds: disjoint, complete, in proportion, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import default
from datasets.splits import draw_validation, stratified_fold, stratified_split
from resnet.errors import UserError
from tests.datasets.errors import error_line

label_arrays = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(np.array)


@settings(deadline=None)
@given(label_arrays, st.floats(0.01, 0.99), st.integers(0, 1000))
def test_split_takes_each_class_share_and_leaves_one_in_train(labels, fraction, seed):
    counts = np.bincount(labels, minlength=6)
    expected = [min(int(fraction * n + 0.5), max(n - 1, 0)) for n in counts]
    if sum(expected) == 0:
        error_line(lambda: stratified_split(labels, fraction, seed), "config.data.val_fraction=")
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
        (lambda y: stratified_split(y, -0.1, 0), ["config.data.val_fraction=-0.1:"]),
        (lambda y: stratified_split(y, 1.0, 0), ["config.data.val_fraction=1.0:", "below 1"]),
        (lambda y: stratified_split(y, float("nan"), 0), ["config.data.val_fraction=nan:"]),
        (lambda y: stratified_split(y, 0.01, 0), ["config.data.val_fraction=0.01:", "12"]),
        (lambda y: stratified_split(y, 0.5, -1), ["config.data.split_seed=-1:"]),
        (lambda y: stratified_fold(y, 0, 1, 0), ["config.data.folds=1:", "2 or more"]),
        (lambda y: stratified_fold(y, 0, -3, 0), ["config.data.folds=-3:"]),
        (lambda y: stratified_fold(y, 2, 2, 0), ["config.data.fold=2:", "0 to 1"]),
        (lambda y: stratified_fold(y, -1, 2, 0), ["config.data.fold=-1:"]),
        (lambda y: stratified_fold(y, 0, 3, 0), ["config.data.folds=3:", "at most 2"]),
        (lambda y: stratified_fold(y, 0, 2, -1), ["config.data.split_seed=-1:"]),
    ],
)
def test_values_out_of_range_are_named_in_one_line(call, words):
    message = error_line(lambda: call(np.arange(12) % 6), *words)
    assert message.startswith("config.data.")


# Groups

groups_of_labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=120)


@settings(deadline=None)
@given(groups_of_labels, st.floats(0.05, 0.9), st.integers(0, 1000))
def test_a_group_is_on_one_side_and_no_class_gives_more_than_its_share(pairs, fraction, seed):
    labels, groups = np.array(pairs).T
    counts = np.bincount(labels, minlength=4)
    try:
        train, val = stratified_split(labels, fraction, seed, groups)
    except UserError:
        return  # No group is small enough.
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    assert not set(groups[train]) & set(groups[val])
    shares = [min(int(fraction * n + 0.5), max(n - 1, 0)) for n in counts]
    assert (np.bincount(labels[val], minlength=4) <= shares).all()


def test_small_groups_fill_the_share_that_a_large_one_exceeds():
    labels = np.repeat([0, 1], 50)
    groups = np.concatenate([np.zeros(30, int), np.arange(1, 71)])
    for seed in range(5):
        _, val = stratified_split(labels, 0.2, seed, groups)
        assert np.bincount(labels[val]).tolist() == [10, 10]
        assert 0 not in groups[val]


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_folds_keep_groups_together_and_hold_every_image_once(folds, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 60, 200)
    labels = groups % 3
    sizes = np.bincount(groups).max()
    held_out = [stratified_fold(labels, fold, folds, seed, groups)[1] for fold in range(folds)]
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(200))
    for i, first in enumerate(held_out):
        for second in held_out[i + 1 :]:
            assert not set(groups[first]) & set(groups[second])
    shares = np.array([np.bincount(labels[val], minlength=3) for val in held_out])
    assert (np.ptp(shares, axis=0) <= sizes).all()


def test_groups_of_single_images_are_as_even_as_images():
    labels = np.repeat(np.arange(3), 20)
    shares = [
        np.bincount(labels[stratified_fold(labels, fold, 5, 0, np.arange(60))[1]]).tolist()
        for fold in range(5)
    ]
    assert shares == [[4, 4, 4]] * 5


def test_a_class_of_fewer_groups_than_folds_is_named():
    groups = np.array([0, 0, 0, 1, 2, 3, 4, 5])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    error_line(
        lambda: stratified_fold(labels, 0, 3, 0, groups),
        "config.data.folds=3:",
        "at most 2",
        "near duplicates",
    )
    error_line(
        lambda: stratified_split(labels[:3], 0.5, 0, groups[:3], field="test_fraction"),
        "config.data.test_fraction=0.5:",
        "near duplicates",
    )


def test_the_config_says_which_images_are_for_validation():
    config = default.get_config().data
    labels = np.repeat(np.arange(6), 30)
    train, val = draw_validation(labels, config)
    assert (len(train), len(val)) == (180, 0)
    config.val_fraction = 0.2
    np.testing.assert_array_equal(draw_validation(labels, config)[1], stratified_split(labels, 0.2, 0)[1])
    config.update(val_fraction=0.0, folds=5, fold=2, split_seed=1)
    np.testing.assert_array_equal(draw_validation(labels, config)[1], stratified_fold(labels, 2, 5, 1)[1])
