"""ONNX models in less than float32: their size, their answers, and what they cannot hold."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from resnet import Classifier, UserError
from resnet.formats.onnx_model import OnnxOptions
from resnet.network import Weights
from tests.resnet.formats.test_onnx import CLASSES, random_classifier

VARIANTS: tuple[dict[str, Any], ...] = (
    {"width": 16, "standardize": "image", "test_time_flip": True, "temperature": 0.5},
    {"depth": 50, "variant": "v2", "max_pool": "zero_padded"},
    {"squeeze": 4, "stem": "deep", "shortcut": "average_pool"},
    {"depth": 20, "stem": "3x3", "max_pool": "none", "shortcut": "zero_pad", "image_size": 32},
)
# Of the mean error, as a share of the mean logit; and of the correlation with float32.
LIMITS = (("float16", 0.005, 0.999), ("int8", 0.2, 0.9))


def pictures_of(classifier: Classifier, count: int = 32) -> np.ndarray:
    """Returns pictures of soft blobs, which differ from each other more than noise does."""
    side = classifier.image_size
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(side // 4, 1).repeat(side // 4, 2)


def export(classifier: Classifier, folder: Path, precision: str) -> Path:
    return classifier.export(folder, "onnx", OnnxOptions(precision, pictures_of(classifier)))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize(("precision", "tolerance", "correlation"), LIMITS)
def test_its_answers_are_close_to_float32(
    changes: dict[str, Any], precision: str, tolerance: float, correlation: float, tmp_path: Path
) -> None:
    classifier = random_classifier(**changes)
    file = export(classifier, tmp_path, precision)
    assert file.name == f"model_{precision}.onnx"
    images = pictures_of(classifier)
    exact = Classifier.load(export(classifier, tmp_path, "float32")).logits(images)
    rough = Classifier.load(file).logits(images)
    assert 0 < np.abs(rough - exact).mean() < tolerance * np.abs(exact).mean()
    for column in range(len(CLASSES)):
        assert np.corrcoef(rough[:, column], exact[:, column])[0, 1] > correlation


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.52), ("int8", 0.3)])
def test_its_size(precision: str, share: float, tmp_path: Path) -> None:
    classifier = random_classifier(width=32)
    sizes = [export(classifier, tmp_path, p).stat().st_size for p in ("float32", precision)]
    assert sizes[1] < share * sizes[0]


def test_int8_multiplies_int8(tmp_path: Path) -> None:
    model = onnx.load(export(random_classifier(), tmp_path, "int8"))
    operators = Counter(node.op_type for node in model.graph.node)
    kinds = Counter(
        tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("weight_quantized")
    )
    assert kinds == {onnx.TensorProto.INT8: operators["Conv"]}
    assert not operators["Relu"], "a ReLU is the lower end of a range"


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    classifier = random_classifier()
    first, second = (export(classifier, tmp_path / name, "int8").read_bytes() for name in "ab")
    assert first == second


def test_what_the_metadata_say_stays(tmp_path: Path) -> None:
    loaded = Classifier.load(export(random_classifier(fit="stretch"), tmp_path, "int8"))
    assert (loaded.class_names, loaded.fit) == (CLASSES, "stretch")


def test_a_weight_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    classifier = random_classifier()
    named = classifier.weights.named()
    named["head.bias"] = np.full(3, 1e5, np.float32)
    classifier = classifier.with_weights(Weights.from_named(named))
    with pytest.raises(
        UserError, match=r"^--precision=float16: head\.bias has a weight of 1e\+05, more than"
    ):
        export(classifier, tmp_path, "float16")
    assert list(tmp_path.iterdir()) == []
