"""How long a training takes whose images are smaller early on. What it learns from them: test_recipes.py."""

import pytest

from tests.runs import small_config
from training.early_size import steps_left


def test_what_is_left_is_counted_in_steps_of_the_size_of_now() -> None:
    plain = small_config()
    assert steps_left(30, 100, plain) == 70
    config = small_config(**{"augment.early_size": 32, "augment.early_share": 0.6})  # of 64 pixels
    assert steps_left(10, 100, config) == pytest.approx(50 + 40 * 4)
    assert steps_left(60, 100, config) == steps_left(60, 100, plain) == 40
    assert steps_left(100, 100, config) == 0
