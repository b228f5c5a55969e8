"""The learning rate range test: its rates, and what it makes of curves whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from lr_find import HIGHEST, LOWEST, find_learning_rate, smooth, suggest
from resnet.export import export
from resnet.network import Network

RATES = np.geomspace(1e-5, 10, 121)


def test_suggestion_is_half_a_decade_below_where_the_loss_is_lowest() -> None:
    # Falls from 2 to 1 around 1e-3, bursts from 1e-1 on.
    decades = np.log10(RATES)
    losses = 2 - 1 / (1 + np.exp(-6 * (decades + 3))) + 50 * np.maximum(decades + 1, 0)
    found = suggest(RATES, losses)
    assert found["lowest"] == pytest.approx(0.1, rel=0.3)
    assert found["suggestion"] == pytest.approx(found["lowest"] / np.sqrt(10))


@pytest.mark.parametrize("losses", [np.full(121, 1.8), np.linspace(1, 5, 121), np.array([])])
def test_no_suggestion_where_nothing_falls(losses: np.ndarray) -> None:
    assert suggest(RATES[: len(losses)], losses) == dict.fromkeys(("suggestion", "lowest"))


def test_smoothing_starts_at_the_first_loss_and_averages() -> None:
    losses = np.array([3.0, 1.0, 2.0])
    expected = [3.0, (0.9 * 3 + 1) / 1.9, (0.81 * 3 + 0.9 * 1 + 2) / 2.71]
    np.testing.assert_allclose(smooth(losses), expected)


def small_config(data_dir: Path, **fields: object) -> ConfigDict:
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "batch_size": 12,
            "model.depth": 18,
            "model.width": 4,
            "model.convolution": "lax",
            **fields,
        }
    )
    return config


def test_rates_grow_by_a_constant_factor_until_the_loss_bursts(shared_signs_dir: Path) -> None:
    config = small_config(shared_signs_dir, **{"steps_per_call": 3, "optimizer.name": "sgd"})
    found = find_learning_rate(config, steps=41)
    rates, losses = np.array(found["learning_rates"]), np.array(found["losses"])
    assert len(rates) == len(losses) > 20
    np.testing.assert_allclose(rates, np.geomspace(LOWEST, HIGHEST, 41)[: len(rates)], rtol=1e-4)
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(np.log(6), abs=0.3)


def test_it_starts_from_the_weights_that_a_training_would_start_from(
    shared_signs_dir: Path, tmp_path: Path
) -> None:
    config = small_config(shared_signs_dir, label_smoothing=0.0)
    weights = Network(config, 6).init(seed=0)
    head = weights.params["head"]
    head["kernel"][:], head["bias"][:] = 0, [100, 0, 0, 0, 0, 0]  # sure that everything is a 0
    config.init_from = str(export(config, weights, tuple("012345"), "safetensors", tmp_path))
    found = find_learning_rate(config, steps=1)
    assert found["losses"][0] in [pytest.approx(100 * wrong / 12) for wrong in range(6, 13)]
