"""The learning rate range test: its rates, and what it suggests for curves whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modes.lr_find import HIGHEST, LOWEST, find_learning_rate, smooth, suggest
from resnet.errors import UserError
from resnet.formats.export import export
from tests.command_line import DEFAULT_CONFIG, Run, assert_succeeded
from tests.runs import DIGITS, NO_RESAMPLING, small_config
from training.network import make_network

RATES = np.geomspace(1e-5, 10, 121)


def test_suggestion_is_half_a_decade_below_where_the_loss_is_lowest() -> None:
    # Falls from 2 to 1 around 1e-3, bursts from 1e-1 on.
    decades = np.log10(RATES)
    losses = 2 - 1 / (1 + np.exp(-6 * (decades + 3))) + 50 * np.maximum(decades + 1, 0)
    result = suggest(RATES, losses)
    assert result["lowest"] == pytest.approx(0.1, rel=0.3)
    assert result["suggestion"] == pytest.approx(result["lowest"] / np.sqrt(10))


@pytest.mark.parametrize("losses", [np.full(121, 1.8), np.linspace(1, 5, 121), np.array([])])
def test_no_suggestion_where_nothing_falls(losses: np.ndarray) -> None:
    assert suggest(RATES[: len(losses)], losses) == dict.fromkeys(("suggestion", "lowest"))


def test_smoothing_starts_at_the_first_loss_and_averages() -> None:
    losses = np.array([3.0, 1.0, 2.0])
    expected = [3.0, (0.9 * 3 + 1) / 1.9, (0.81 * 3 + 0.9 * 1 + 2) / 2.71]
    np.testing.assert_allclose(smooth(losses), expected)


def test_rates_grow_by_a_constant_factor_until_the_loss_bursts(shared_signs_dir: Path) -> None:
    config = small_config(
        **{"data.dir": str(shared_signs_dir), "batch_size": 12, "steps_per_call": 3, "optimizer.name": "sgd"}
    )
    result = find_learning_rate(config, steps=41)
    rates, losses = np.array(result["learning_rates"]), np.array(result["losses"])
    assert len(rates) == len(losses) > 20
    np.testing.assert_allclose(rates, np.geomspace(LOWEST, HIGHEST, 41)[: len(rates)], rtol=1e-4)
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(np.log(6), abs=0.3)


def test_a_stream_is_not_over_before_the_last_step(shared_signs_dir: Path) -> None:
    fields = {"batch_size": 12, "steps_per_call": 3, "num_epochs": 1, "data.placement": "stream"}
    config = small_config(**fields, **{"data.dir": str(shared_signs_dir), "optimizer.name": "sgd"})
    assert len(find_learning_rate(config, steps=12)["losses"]) == 12
    assert config.num_epochs == 1


def test_of_several_seeds_it_takes_the_first(shared_signs_dir: Path) -> None:
    fields = NO_RESAMPLING | {"data.dir": str(shared_signs_dir), "batch_size": 12}
    losses = [
        find_learning_rate(small_config(**fields | seeds), steps=1)["losses"]
        for seeds in ({"seeds": (4, 1)}, {"seed": 4}, {"seed": 0})
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"gpu.visible_devices": "0,1"}, r"^config\.gpu\.visible_devices=0,1: names 2 GPUs, but JAX sees 0"),
        ({"augment.early_size": 31, "augment.early_share": 0.5}, r"^config\.augment\.early_size=31: "),
    ],
)
def test_what_a_training_refuses_is_refused_before_the_data_are_read(
    tmp_path: Path, fields: dict[str, object], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        find_learning_rate(small_config(**fields, **{"data.dir": str(tmp_path / "nowhere")}))


def test_it_starts_from_the_weights_that_a_training_would_start_from(
    shared_signs_dir: Path, tmp_path: Path
) -> None:
    config = small_config(**{"data.dir": str(shared_signs_dir), "batch_size": 12, "label_smoothing": 0.0})
    network = make_network(config, 6)
    weights = network.init(seed=0)
    head = weights.params["head"]
    head["kernel"][:], head["bias"][:] = 0, [100, 0, 0, 0, 0, 0]  # sure that everything is a 0
    config.init_from = str(export(network, weights, DIGITS, format="safetensors", folder=tmp_path))
    result = find_learning_rate(config, steps=1)
    assert result["losses"][0] in [pytest.approx(100 * wrong / 12) for wrong in range(6, 13)]


def test_lr_find_writes_its_curve(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = np.geomspace(1e-5, 1, 50)
    for losses, expected in (
        (np.abs(np.log10(rates) + 2) + 1, "suggestion: --config.optimizer.learning_rate=0.012"),
        (np.full(50, 1.8), "no suggestion"),
    ):
        result = {"learning_rates": rates.tolist(), "losses": losses.tolist(), **suggest(rates, losses)}
        monkeypatch.setattr("modes.lr_find.find_learning_rate", lambda config, result=result: result)
        folder = tmp_path / expected[:2]
        printed = run("--mode=lr_find", DEFAULT_CONFIG, f"--workdir={folder}")
        assert_succeeded(printed)
        assert expected in printed.out
        assert json.loads((folder / "lr_find.json").read_text()) == result
        assert Image.open(folder / "lr_find.png").width > 400
        assert sorted(file.name for file in folder.iterdir()) == ["lr_find.json", "lr_find.png"]
