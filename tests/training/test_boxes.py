"""Random rectangles: their areas, ratios and places, and what happens when none fits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick_compilation import quick_jit
from training.boxes import Boxes, random_boxes


def drawn(count: int, size: int, **fields: object) -> tuple[Boxes, np.ndarray]:
    bounds = {"areas": (0.08, 1.0), "ratios": (3 / 4, 4 / 3), "largest": size} | fields
    draw = quick_jit(partial(random_boxes, count=count, size=size, **bounds))
    boxes, exists = draw(jax.random.key(0))
    return Boxes(*map(np.asarray, boxes)), np.asarray(exists)


def test_boxes_lie_in_the_image_with_areas_and_ratios_within_bounds() -> None:
    boxes, exists = drawn(2000, 500)
    assert exists.all()
    assert min(boxes.top.min(), boxes.left.min()) == 0
    assert max((boxes.top + boxes.height).max(), (boxes.left + boxes.width).max()) == 500
    area, ratio = boxes.height * boxes.width / 500**2, boxes.height / boxes.width
    assert 0.079 < area.min() < 0.09
    assert 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.35
    assert abs(np.log(ratio).mean()) < 4 * np.log(4 / 3) / np.sqrt(3 * 2000)


def test_small_areas_are_uniform_as_all_of_them_fit() -> None:
    boxes, _ = drawn(4000, 1000, areas=(0.1, 0.5))
    share = (boxes.height * boxes.width / 1000**2 - 0.1) / 0.4
    spread = 4 / np.sqrt(4000)
    assert abs(share.mean() - 1 / 2) < spread * np.sqrt(1 / 12)
    assert abs((share**2).mean() - 1 / 3) < spread * 0.3


def test_all_places_are_equally_likely() -> None:
    boxes, _ = drawn(4000, 8, areas=(0.25, 0.25), ratios=(0.99, 1.01))
    assert (boxes.height == 4).all()
    for corner in (boxes.top, boxes.left):
        counts = np.bincount(corner, minlength=5)
        np.testing.assert_allclose(counts / 4000, 1 / 5, atol=4 * np.sqrt(0.16 / 4000))
    assert abs(np.corrcoef(boxes.top, boxes.left)[0, 1]) < 4 / np.sqrt(4000)


def test_the_box_is_the_whole_image_if_none_fits() -> None:
    boxes, exists = drawn(5, 20, areas=(0.9, 1.0), ratios=(3.0, 4.0))
    assert not exists.any()
    np.testing.assert_array_equal(np.stack(boxes), np.array([0, 0, 20, 20])[:, None].repeat(5, 1))


def test_a_box_that_does_not_fit_is_drawn_again() -> None:
    # One draw in twenty fits: one of ten does in 1 - 0.95**10 of the images.
    boxes, exists = drawn(4000, 1000, areas=(0.05, 1.05), ratios=(9.999, 10.0))
    assert abs(exists.mean() - (1 - 0.95**10)) < 4 * np.sqrt(0.4 * 0.6 / 4000)
    assert boxes.height[exists].max() <= 1000


def test_no_side_is_longer_than_the_largest() -> None:
    boxes, exists = drawn(500, 10, areas=(0.5, 1.0), largest=9)
    assert max(boxes.height[exists].max(), boxes.width[exists].max()) == 9


@pytest.mark.parametrize("size", [5, 7])
def test_a_mask_shows_the_pixels_inside(size: int) -> None:
    boxes = Boxes(*jnp.array([[1, -2], [0, 3], [3, 4], [2, 9]]))
    expected = np.zeros((2, size, size, 1), bool)
    expected[0, 1:4, 0:2] = True
    expected[1, 0:2, 3:] = True
    np.testing.assert_array_equal(boxes.mask(size), expected)
