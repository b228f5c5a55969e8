"""When images are smaller early in training, and how long it takes. What it learns: test_recipes.py."""

import pytest

from input_pipeline import steps_of_call
from tests.runs import small_config
from training.early_size import image_size_of_step, steps_left


def test_no_call_has_images_of_two_sizes() -> None:
    """Three epochs of five steps, two in a call: images grow after eight, within an epoch and a call."""
    fields = {"num_epochs": 3, "steps_per_call": 2, "augment.early_size": 32, "augment.early_share": 0.5}
    config = small_config(**fields)  # Its images have 64 pixels a side.
    step, calls = 0, []
    while step < 15:
        count = steps_of_call(step, 5, config)
        sizes = {image_size_of_step(s, 15, config) for s in range(step, step + count)}
        calls.append((count, *sizes))
        step += count
    small = [(2, 32), (2, 32), (1, 32), (2, 32), (1, 32)]
    assert calls == [*small, (2, 64), (2, 64), (2, 64), (1, 64)]


def test_what_is_left_is_counted_in_steps_of_the_size_of_now() -> None:
    plain = small_config()
    assert steps_left(30, 100, plain) == 70
    config = small_config(**{"augment.early_size": 32, "augment.early_share": 0.6})  # of 64 pixels
    assert steps_left(10, 100, config) == pytest.approx(50 + 40 * 4)
    assert steps_left(60, 100, config) == steps_left(60, 100, plain) == 40
    assert steps_left(100, 100, config) == 0
