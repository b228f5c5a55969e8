"""The recipes for CIFAR-10 against He et al. 2015 (arXiv:1512.03385), section 4.2."""

import math

import numpy as np
import pytest

from configs import cifar10, cifar10_short, default, rules
from training.network import make_network
from training.optimizer import learning_rate_schedule

STEPS_PER_EPOCH = 50_000 // 128


def parameters_by_the_paper(n: int) -> int:
    """Returns the parameters of the network with 6n + 2 layers, with shortcuts that have none."""
    widths = (16, 32, 64)
    stem = 9 * 3 * 16
    stages = sum(9 * max(width // 2, 16) * width + (2 * n - 1) * 9 * width**2 for width in widths)
    norms = 2 * (16 + 2 * n * sum(widths))
    return stem + stages + norms + 64 * 10 + 10


@pytest.mark.parametrize(
    ("depth", "count", "millions"),
    [
        (20, 269_722, 0.27),
        (32, 464_154, 0.46),
        (44, 658_586, 0.66),
        (56, 853_018, 0.85),
        (110, 1_727_962, 1.7),
    ],
)
def test_networks_have_the_parameters_of_table_6(depth: int, count: int, millions: float) -> None:
    config = cifar10.get_config()
    config.model.depth = depth
    shapes = make_network(config, 10).shapes()
    parameters = sum(
        math.prod(shape) for name, shape in shapes.items() if not name.endswith((".mean", ".var"))
    )
    assert parameters == count == parameters_by_the_paper((depth - 2) // 6)
    assert float(f"{count / 1e6:.2g}") == millions


def test_learning_rate_falls_after_32_and_48_of_64_thousand_steps() -> None:
    config = cifar10.get_config()
    schedule = learning_rate_schedule(
        config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=STEPS_PER_EPOCH
    )
    total = config.num_epochs * STEPS_PER_EPOCH
    assert round(total, -3) == 64_000
    rates = np.array([schedule(step) for step in range(0, total, 1000)])
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.01, 0.001], [32, 16, 16]), rtol=1e-5)


def test_images_are_flipped_and_shifted_and_nothing_else() -> None:
    config, defaults = cifar10.get_config(), default.get_config().augment
    changes = {name for name, value in config.augment.items() if value != defaults[name]}
    assert changes == {"pad", "rotation", "scale", "translation", "appearance"}
    assert (config.augment.flip, config.augment.pad) == (0.5, 4)
    # All that is left of the defaults belongs to the appearance, which no image changes.
    assert not any(config.augment[name] for name in changes - {"pad"})


def test_the_short_recipe_differs_in_how_it_trains_alone() -> None:
    paper, short = (dict(rules.flatten(config.get_config())) for config in (cifar10, cifar10_short))
    changes = {name for name in paper if paper[name] != short[name]}
    assert {name.partition(".")[0] for name in changes} <= {
        "num_epochs", "label_smoothing", "test_time_flip", "ema_decay", "augment", "optimizer",
    }  # fmt: skip
    config = cifar10_short.get_config()
    schedule = learning_rate_schedule(
        config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=STEPS_PER_EPOCH
    )
    peak = round(config.optimizer.warmup_epochs * STEPS_PER_EPOCH)
    end = config.num_epochs * STEPS_PER_EPOCH
    rates = [schedule(step) for step in (0, peak, end)]
    np.testing.assert_allclose(rates, [0, config.optimizer.learning_rate, 0], atol=1e-7)
