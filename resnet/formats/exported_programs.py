"""Runs exported programs, to compare their answers with the classifier's."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from resnet.classifier import Classifier
from resnet.formats import PROGRAMS
from resnet.formats.onnx_model import PROBABILITIES
from resnet.onnx_classifier import OnnxClassifier

PICTURES = 3


class Check(NamedTuple):
    """The largest difference of a probability to the classifier's, and the runtime that gave it."""

    difference: float
    runtime: str


def check_program(path: Path, format: str, classifier: Classifier) -> Check | None:
    """Compares the program in `path` with `classifier` on pictures of noise; None without its runtime."""
    package = PROGRAMS[format]
    try:
        runtime = f"{package} {version(package)}"
    except PackageNotFoundError:
        return None
    answer = OnnxClassifier(path).probabilities if format == "onnx" else partial(_by_jax, path)
    return Check(difference_on_noise(answer, classifier), runtime)


def difference_on_noise(answer: Callable[[np.ndarray], np.ndarray], classifier: Classifier) -> float:
    """Returns the largest difference of a probability to the classifier's, on pictures of noise.

    `answer` takes pictures, uint8 [N, S, S, 3], to probabilities, float32 [N, classes].
    """
    side = classifier.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, side, side, 3), np.uint8)
    return float(np.abs(answer(pictures) - classifier.probabilities(pictures)).max())


def _by_jax(path: Path, pictures: np.ndarray) -> np.ndarray:
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    return np.asarray(program.call(pictures)[PROBABILITIES])
