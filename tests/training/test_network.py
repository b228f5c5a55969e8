"""The network of a config, and the weights of others that it starts from."""

from pathlib import Path

import numpy as np
import pytest

from resnet.errors import UserError
from resnet.pretrained import read_pretrained
from tests.runs import DIGITS, save_untrained_run, small_config, without_augmentation
from train import train_and_evaluate
from training.network import find_start, make_network
from workdir import settings


def test_a_run_goes_on_from_another_run_and_then_does_not_need_it(tmp_path: Path) -> None:
    fields = {
        "data.name": "rendered",
        "data.image_size": 32,
        "data.train_size": 24,
        "data.test_size": 12,
        "num_epochs": 1,
        "batch_size": 12,
        "compute_dtype": "float32",
        "checkpoint.every_minutes": 0.0,
    }
    other = small_config(**fields, **{"data.mean": (0.4, 0.4, 0.4), "seed": 3})
    first = read_pretrained(save_untrained_run(tmp_path / "first", other, DIGITS))
    config = without_augmentation(small_config(**fields, init_from=str(tmp_path / "first")))
    config.model.depth = 50
    config.optimizer.learning_rate = 0.0
    summary = train_and_evaluate(config, tmp_path / "second")
    stored, _ = settings.load(tmp_path / "second")
    assert (stored.model.depth, stored.data.mean) == (18, (0.4, 0.4, 0.4))
    second = read_pretrained(tmp_path / "second")
    for name, array in first.weights.named().items():
        if not name.endswith((".mean", ".var")):
            np.testing.assert_allclose(second.weights.named()[name], array, atol=1e-6, err_msg=name)

    (tmp_path / "first").rename(tmp_path / "moved")
    for path in ("first", "moved"):  # The one is gone, the other has the same weights.
        (tmp_path / "second" / "summary.json").unlink()
        config.init_from = str(tmp_path / path)
        again = train_and_evaluate(config, tmp_path / "second")
        assert (again["test"], again["ema"]) == (summary["test"], summary["ema"])
        stored, _ = settings.load(tmp_path / "second")
        assert (stored.init_from, stored.model.depth) == (config.init_from, 18)
    other.seed = 4
    config.init_from = str(save_untrained_run(tmp_path / "third", other, DIGITS))
    with pytest.raises(UserError, match=r"other settings: init_from \(there"):
        train_and_evaluate(config, tmp_path / "second")
    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere: no such file"):  # Nothing tells that it is the same.
        train_and_evaluate(config, tmp_path / "second")


def test_fields_that_initial_weights_decide_otherwise_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"data.image_size": 32}
    folder = save_untrained_run(tmp_path / "first", small_config(**size), DIGITS)
    # The width is another than by default, but the one that the weights have.
    config = small_config(init_from=str(folder), **size, **{"model.depth": 34, "data.mean": (0.4, 0.4, 0.4)})
    find_start(config, tmp_path / "second")
    assert capsys.readouterr().err.splitlines() == [
        "note: config.model.depth=34 has no effect, as the weights of config.init_from have 18",
        "note: config.data.mean=(0.4, 0.4, 0.4) has no effect, as the weights of config.init_from have"
        " (0.5, 0.5, 0.5)",
    ]


def test_missing_weights_are_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file"):
        train_and_evaluate(small_config(init_from=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stochastic_depth_of_the_config_reaches_the_network() -> None:
    network = make_network(small_config(**{"model.stochastic_depth": 0.25}), 3)
    assert network.build(None).stochastic_depth == 0.25


def test_early_images_too_small_for_the_network_are_reported_before_the_data_are_read(tmp_path: Path) -> None:
    fields = {"data.dir": str(tmp_path / "nowhere"), "augment.early_size": 31, "augment.early_share": 0.5}
    with pytest.raises(UserError, match=r"^config\.augment\.early_size=31: .* at least 32 pixels a side$"):
        train_and_evaluate(small_config(**fields), tmp_path / "run")
