"""Classifiers on frozen features against computations of their own."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.distance import cdist

from datasets.types import Split
from evaluation.probe import STRENGTHS, choose_strength, fit_linear, knn_predict, layers_of, probe_layers
from resnet.architecture import Architecture
from resnet.errors import UserError


def clusters(count: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [count, 12] of 4 classes around centres that are the same for every seed."""
    centres = 5 + np.random.default_rng(100).standard_normal((4, 12))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return (centres[labels] + spread * rng.standard_normal((count, 12))).astype(np.float32), labels


def test_neighbours_vote_by_their_cosine() -> None:
    (x, y), (queries, truth) = clusters(90, 2.0, 0), clusters(50, 2.0, 1)
    expected = []
    for row in 1 - cdist(queries.astype(np.float64), x.astype(np.float64), "cosine"):
        votes = dict.fromkeys(range(4), 0.0)
        for index in sorted(range(len(x)), key=lambda i: -row[i])[:5]:
            votes[int(y[index])] += np.exp(row[index] / 0.07)
        expected.append(max(votes, key=votes.get))
    predicted = knn_predict(x, y, queries, 4)
    np.testing.assert_array_equal(predicted, expected)
    assert 0.5 < np.mean(predicted == truth) < 1  # Hard enough that the votes matter.


def test_neighbours_do_not_see_lengths_and_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (queries, _) = clusters(60, 0.9, 0), clusters(50, 2.0, 1)
    predicted = knn_predict(x, y, queries, 4)
    monkeypatch.setattr("evaluation.probe.BLOCK", 7)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (60, 1)).astype(np.float32)
    np.testing.assert_array_equal(knn_predict(x * lengths, y, queries, 4), predicted)


def test_fewer_images_than_neighbours_and_a_dead_feature() -> None:
    x = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    predicted = knn_predict(x, np.array([2, 0, 1]), np.array([[3, 0], [0, 2]], np.float32), 3)
    np.testing.assert_array_equal(predicted, [2, 0])


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_the_probe_is_where_the_gradient_vanishes(strength: float) -> None:
    x, y = clusters(90, 2.0, 0)
    x[:, 3] = 7.0  # a dead channel
    probe = fit_linear(x, y, 4, strength)
    spread = x.std(0)
    standardised = (x - x.mean(0)) / np.where(spread > 1e-5, spread, 1)

    def loss(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        logits = standardised @ kernel + bias
        return (
            optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            + strength / 2 * jnp.square(kernel).sum()
        )

    fitted = jnp.float32(probe.kernel), jnp.float32(probe.bias)
    for gradient in jax.grad(loss, (0, 1))(*fitted):
        assert abs(gradient).max() < 1e-5
    np.testing.assert_allclose(
        probe.logits(x), standardised @ probe.kernel + probe.bias, atol=1e-3 * abs(probe.kernel).max()
    )


def test_where_it_starts_changes_nothing() -> None:
    x, y = clusters(90, 2.0, 0)
    cold = fit_linear(x, y, 4, 1e-3)
    warm = fit_linear(x, y, 4, 1e-3, start=fit_linear(x, y, 4, 1.0))
    np.testing.assert_allclose(warm.kernel, cold.kernel, atol=1e-3)


def test_noise_is_held_down_and_signal_is_not() -> None:
    (x, y), (held_x, held_y) = clusters(40, 0.1, 0), clusters(40, 0.1, 1)
    assert choose_strength((x, y), (held_x, held_y), 4) == min(STRENGTHS)
    noise = np.random.default_rng(0).permutation(held_y)
    assert choose_strength((x, np.random.default_rng(1).permutation(y)), (held_x, noise), 4) == max(STRENGTHS)


def made_up(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Any, dict[str, Split]]:
    """A classifier whose `stage1` has the given features, and that is sure that all is `b`."""
    features = {name: x for name, (x, _) in splits.items()}
    images = {name: Split(np.full(1, i), y) for i, (name, (_, y)) in enumerate(splits.items())}
    names = list(splits)

    def features_of(images: np.ndarray, layers: tuple[str, ...]) -> dict[str, np.ndarray]:
        return dict.fromkeys(layers, features[names[images[0]]])

    def probabilities(images: np.ndarray) -> np.ndarray:
        assert names[images[0]] == "test"
        return np.tile([0.0, 1.0, 0.0, 0.0], (len(splits["test"][1]), 1))

    classifier = SimpleNamespace(class_names="abcd", features_of=features_of, probabilities=probabilities)
    return classifier, images


def test_test_images_are_for_measuring_alone() -> None:
    train, test = clusters(80, 1.2, 0), clusters(40, 1.2, 1)
    result = probe_layers(*arguments(train=train, test=test), own_head=True)
    wrong = (test[0], np.roll(test[1], 1))
    result_wrong = probe_layers(*arguments(train=train, test=wrong), own_head=True)
    [row], [row_wrong] = result["layers"], result_wrong["layers"]
    assert row["strength"] == row_wrong["strength"]
    assert row["linear"] > 0.6 > row_wrong["linear"]
    linear = fit_linear(*train, 4, row["strength"]).logits(test[0]).argmax(-1)
    assert row["linear"] == np.mean(linear == test[1])
    assert row["knn"] == np.mean(knn_predict(*train, test[0], 4) == test[1])
    assert result["network"] == 0.25
    assert result["strength_chosen_on"] == "20% of train"


def test_held_out_images_of_the_run_choose_the_strength() -> None:
    train, val, test = clusters(40, 0.1, 0), clusters(40, 0.1, 2), clusters(40, 0.1, 1)
    noise = (val[0], np.random.default_rng(0).permutation(val[1]))
    strengths = []
    for chooser in (val, noise):
        result = probe_layers(*arguments(train=train, val=chooser, test=test), own_head=False)
        assert result["strength_chosen_on"] == "val"
        assert "network" not in result
        strengths.append(result["layers"][0]["strength"])
    assert strengths[0] < strengths[1]


def arguments(**splits: tuple[np.ndarray, np.ndarray]) -> tuple[Any, list[str], dict[str, Split]]:
    classifier, images = made_up(splits)
    return classifier, ["stage1"], images


def test_too_few_images_to_hold_some_out() -> None:
    train = clusters(8, 0.1, 0)
    with pytest.raises(UserError, match="found 8 training images, of no class more than 2; expected"):
        probe_layers(*arguments(train=train, test=train), own_head=False)


def test_layers_are_stages_and_what_the_final_norm_makes_of_the_last() -> None:
    assert layers_of(Architecture()) == ("stem", "stage1", "stage2", "stage3", "stage4")
    assert layers_of(Architecture(variant="v2", depth=20)) == ("stem", "stage1", "stage2", "stage3", "pooled")
