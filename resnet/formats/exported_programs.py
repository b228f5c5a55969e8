"""Runs exported programs, to compare their answers with the classifier's."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from resnet.classifier import Classifier
from resnet.formats import PROGRAMS
from resnet.formats.onnx_model import INPUT, PROBABILITIES
from resnet.formats.onnx_runtime import import_onnx_runtime

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
    side = classifier.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, side, side, 3), np.uint8)
    theirs = (_by_onnx_runtime if format == "onnx" else _by_jax)(path, pictures)
    return Check(float(np.abs(theirs - classifier.probabilities(pictures)).max()), runtime)


def _by_onnx_runtime(path: Path, pictures: np.ndarray) -> np.ndarray:
    onnxruntime = import_onnx_runtime(str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([PROBABILITIES], {INPUT: pictures})[0]


def _by_jax(path: Path, pictures: np.ndarray) -> np.ndarray:
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    return np.asarray(program.call(pictures)[PROBABILITIES])
