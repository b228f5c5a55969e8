"""The threshold below which a network says 'no sign'."""

import numpy as np
import pytest

from evaluation.no_sign import REJECTED, fit_no_sign, pictures_without_signs


def probabilities(best: np.ndarray) -> np.ndarray:
    """Returns probabilities of three classes, of which the second one has `best`."""
    return np.stack([(1 - best) / 2, best, (1 - best) / 2], axis=-1)


def test_one_sign_in_twenty_lies_below_the_threshold() -> None:
    best = np.linspace(0.5, 1, 200)
    no_sign = fit_no_sign(probabilities(best), probabilities(np.full(10, 0.4)))
    assert no_sign.signs_rejected == REJECTED
    assert no_sign.threshold == np.quantile(best, REJECTED)
    assert no_sign.others_accepted == 0


def test_pictures_that_look_like_signs_are_counted() -> None:
    others = np.array([0.34, 0.5, 0.9, 0.99])
    no_sign = fit_no_sign(probabilities(np.full(100, 0.8)), probabilities(others))
    assert (no_sign.signs_rejected, no_sign.others_accepted) == (0, 0.5)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_pictures_without_signs_differ_from_each_other(side: int) -> None:
    pictures = pictures_without_signs(side)
    assert (pictures.dtype, pictures.shape[1:]) == (np.uint8, (side, side, 3))
    assert len(np.unique(pictures, axis=0)) == len(pictures)
