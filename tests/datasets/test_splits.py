"""Stratified splits and folds: disjoint, complete, in proportion, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.splits import stratified_fold, stratified_split
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
