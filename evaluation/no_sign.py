"""When to say 'no sign': below which probability of its best class a network has seen nothing it knows.

The largest probability as a score is the baseline of Hendrycks & Gimpel 2017 (arXiv:1610.02136).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.rendered.render import render_room
from datasets.types import Split
from resnet.classifier import Classifier

REJECTED = 0.05  # share of the pictures with signs that may be taken for pictures without
PICTURES = 600  # without a sign
SEED = 0
SIDES = (16, 128)  # pixels: smallest and largest side at which they are drawn; then they are resized


class NoSign(NamedTuple):
    """The threshold, and its two error rates where it was fitted.

    `signs_rejected` is the share of pictures with signs below `threshold`, `others_accepted` the share of
    pictures without signs that reach it.
    """

    threshold: float
    signs_rejected: float
    others_accepted: float


def fit_no_sign(signs: np.ndarray, others: np.ndarray) -> NoSign:
    """Returns the threshold that `REJECTED` of the pictures with signs do not reach.

    `signs` and `others`, float32 [N, classes], are the probabilities for pictures with and without signs.
    """
    best_of_signs, best_of_others = signs.max(-1), others.max(-1)
    threshold = float(np.quantile(best_of_signs, REJECTED))
    return NoSign(
        threshold, float((best_of_signs < threshold).mean()), float((best_of_others >= threshold).mean())
    )


def fit_on_splits(classifier: Classifier, splits: Mapping[str, Split]) -> tuple[NoSign, str]:
    """Fits the threshold of `classifier` on the validation images of its run, or else on its training images.

    `splits` has the splits of the run by their names. Returns the threshold, and a sentence that states its
    error rates.
    """
    name = "val" if "val" in splits else "train"
    others = pictures_without_signs(classifier.image_size)
    no_sign = fit_no_sign(*(classifier.probabilities(images) for images in (splits[name].images, others)))
    return no_sign, (
        f"'no sign' where no class reaches {no_sign.threshold:.3f}: {no_sign.signs_rejected:.1%} of the"
        f" {name} images, and {1 - no_sign.others_accepted:.1%} of {len(others)} rendered rooms without hands"
    )


def pictures_without_signs(image_size: int) -> np.ndarray:
    """Returns rendered rooms without hands, uint8 [N, image_size, image_size, 3]."""
    side = min(max(image_size, SIDES[0]), SIDES[1])
    rooms = (Image.fromarray(render_room(i, SEED, image_size=side)) for i in range(PICTURES))
    return np.stack([np.asarray(room.resize((image_size, image_size))) for room in rooms])
