"""An ONNX model answers in ONNX Runtime as the classifier does, for every variant of the family."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from scipy.special import softmax

from resnet import Classifier
from resnet.errors import UserError
from resnet.formats.onnx_model import IR_VERSION, OPSET
from resnet.network import Network, Weights
from tests.quick_compilation import quick_jit
from tests.resnet.networks import make_network

CLASSES = ("null", "eins", "zwölf")
KERAS_V2 = {"variant": "v2", "max_pool": "zero_padded", "stride_in": "last_block", "conv_bias": True}
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"depth": 50},
    {"depth": 50, "variant": "v1"},
    {"depth": 50, **KERAS_V2},
    {"stem": "deep", "shortcut": "average_pool"},
    {"stem": "deep", "shortcut": "average_pool", "image_size": 97},  # maps of odd sides
    {"depth": 20, "stem": "3x3", "max_pool": "none", "shortcut": "zero_pad", "image_size": 32},
    {"depth": 16, "stem": "3x3", "max_pool": "none", "variant": "v2", "image_size": 32},
    {"depth": 50, "groups": 2, "widen": 2},
    {"squeeze": 4, "max_pool": "unpadded"},
    {"residual": False, "zero_init_last": False},
    {"standardize": "image", "test_time_flip": True, "temperature": 0.5},
    {"standardize": "channel", "channel_order": "bgr"},
    {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "channel_order": "bgr"},
)


def random_classifier(**changes: Any) -> Classifier:
    """Returns a classifier whose arrays are all random, also those that start as zeros or ones."""
    network = make_network(**{"convolution": "lax", **changes})
    return Classifier(network, random_weights(network), CLASSES)


def random_weights(network: Network) -> Weights:
    rng = np.random.default_rng(0)
    named = {}
    for name, array in network.init(0).named().items():
        leaf = name.rpartition(".")[2]
        if leaf in ("scale", "var"):
            array = rng.uniform(0.5, 1.0, array.shape)
        elif leaf != "kernel" or name == "head.kernel" or not array.any():
            array = 0.1 * rng.standard_normal(array.shape)
        named[name] = np.asarray(array, np.float32)
    return Weights.from_named(named)


def answers(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits", "probabilities"], {"images": images})


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_gives_the_same_answers(changes: dict[str, Any], tmp_path: Path) -> None:
    classifier = random_classifier(**changes)
    path = classifier.export(tmp_path, "onnx")
    side = classifier.image_size
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    expected = np.asarray(quick_jit(classifier.network.predict)(classifier.weights, {}, images))
    logits, probabilities = answers(path, images)
    np.testing.assert_allclose(logits, expected, atol=2e-5 * abs(expected).max())
    np.testing.assert_allclose(probabilities, softmax(expected, axis=-1), atol=1e-5)
    assert np.ptp(logits, axis=0).max() > 1e-3, "every picture got the same answer"


def test_any_number_of_pictures(tmp_path: Path) -> None:
    classifier = random_classifier(test_time_flip=True)
    path = classifier.export(tmp_path, "onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    together = answers(path, images)[0]
    assert together.shape == (5, 3)
    one_by_one = [answers(path, image[None])[0][0] for image in images]
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_what_is_in_the_file(tmp_path: Path) -> None:
    model = onnx.load(random_classifier(depth=50, mean=(0.4, 0.5, 0.6)).export(tmp_path, "onnx"))
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 53
    assert not {"BatchNormalization", "Mul"} & set(operators), "norms are folded into convolutions"
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["class_names"] == list(CLASSES)
    assert metadata["resnet_config"]["data"]["mean"] == [0.4, 0.5, 0.6]


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    classifier = random_classifier()
    first, second = (classifier.export(tmp_path / name, "onnx").read_bytes() for name in "ab")
    assert first == second


def test_weights_without_a_head_are_refused(tmp_path: Path) -> None:
    network = make_network(0)
    classifier = Classifier(network, network.init(0), ())
    with pytest.raises(UserError, match=r"^--format=onnx: these weights have no head"):
        classifier.export(tmp_path, "onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"^--format=onnx: needs the package onnx; .*pip install onnx$"):
        random_classifier().export(tmp_path, "onnx")
