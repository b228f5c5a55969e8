"""The answers of ONNX Runtime, where it is installed, to check an ONNX model by."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet.classifier import Classifier
from resnet.formats.onnx_model import INPUT, PROBABILITIES

PICTURES = 3


class Check(NamedTuple):
    """The largest difference of a probability to the classifier's, and the version of ONNX Runtime."""

    difference: float
    version: str


def check_onnx(path: Path, classifier: Classifier) -> Check | None:
    """Compares the model in `path` with `classifier` on pictures of noise; None without ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    side = classifier.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, side, side, 3), np.uint8)
    (theirs,) = session.run([PROBABILITIES], {INPUT: pictures})
    difference = float(np.abs(theirs - classifier.probabilities(pictures)).max())
    return Check(difference, onnxruntime.__version__)
