"""`Classifier.load("model.onnx")` answers as the network that was exported, and refuses other files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from resnet import Classifier, UserError, load_pretrained
from resnet.formats.onnx_model import OnnxOptions
from resnet.onnx_classifier import OnnxClassifier
from tests.command_line import ROOT
from tests.resnet.formats.test_onnx import CLASSES, random_classifier


@pytest.fixture(scope="module")
def original() -> Classifier:
    return random_classifier(test_time_flip=True, temperature=0.5, fit="pad", crop=0.9)


@pytest.fixture(scope="module")
def file(original: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = OnnxOptions(notes={"trained_on": "Größen"})
    return original.export(tmp_path_factory.mktemp("onnx"), "onnx", options)


def test_it_predicts_as_the_original(original: Classifier, file: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((64, 64), (90, 70), (31, 200))]
    loaded = Classifier.load(file)
    assert isinstance(loaded, OnnxClassifier)
    assert (loaded.class_names, loaded.notes) == (CLASSES, {"trained_on": "Größen"})
    for ours, expected in zip(loaded.predict(pictures), original.predict(pictures), strict=True):
        assert ours.label == expected.label
        assert ours.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 33])
def test_any_number_of_images(file: Path, count: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (count, 64, 64, 3), np.uint8)
    probabilities = load_pretrained(file).probabilities(images)
    assert probabilities.shape == (count, 3)
    np.testing.assert_allclose(probabilities.sum(-1), np.ones(count), atol=1e-5)


def test_images_of_another_size_are_refused(file: Path) -> None:
    with pytest.raises(
        UserError, match=r"^image array: found uint8 \[1, 32, 32, 3\], expected uint8 \[N, 64"
    ):
        Classifier.load(file).probabilities(np.zeros((1, 32, 32, 3), np.uint8))


def test_it_has_neither_features_nor_weights_to_export(file: Path, tmp_path: Path) -> None:
    loaded = Classifier.load(file)
    with pytest.raises(UserError, match="gives answers, not features"):
        loaded.features(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="is an export already"):
        loaded.export(tmp_path)


def test_changes_of_its_preparation_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="takes no changes"):
        load_pretrained(file, crop=0.5)


def test_nothing_is_reported_to_anybody(file: Path, tmp_path: Path) -> None:
    code = f"from resnet import Classifier; Classifier.load({str(file)!r})"
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.rglob("*")) == [], "ONNX Runtime keeps a number of the machine and what it reports"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.onnx: no such file; check the path$"):
        Classifier.load(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("choice", [{"checkpoint": "last"}, {"raw": True}])
def test_an_onnx_model_has_one_set_of_weights(file: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"\.onnx: has one set of weights; leave checkpoint and raw out$"):
        Classifier.load(file, **choice)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_a_truncated_file(file: Path, tmp_path: Path, kept: float) -> None:
    content = file.read_bytes()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(UserError, match=r"damaged\.onnx: "):
        Classifier.load(damaged)


def test_a_model_of_somebody_else(tmp_path: Path) -> None:
    shape = [1, 64, 64, 3]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", ends[:1], ends[1:])
    opset = helper.make_opsetid("", 9)
    file = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=4), file)
    with pytest.raises(UserError, match="does not say what its input and its classes are"):
        Classifier.load(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "class_names",
            '["a", "b"]',
            r"are not those of its description, pictures of 64 pixels and 2 classes",
        ),
        ("class_names", '["a", "a", "b"]', "its class_names: "),
        ("class_names", "{", "its class_names: is not JSON"),
        ("resnet_config", '{"data": {"image_size": 32}}', "are not those of its description"),
        ("resnet_config", '{"data": {"image_size": "big"}}', "its resnet_config: data.image_size: "),
        ("resnet_config", '{"data": {"fit": "squeeze"}}', "no network of this project"),
        ("notes", "[]", "its notes: "),
    ],
)
def test_edited_metadata(file: Path, tmp_path: Path, key: str, value: str, message: str) -> None:
    model = onnx.load(file)
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
    edited = tmp_path / "edited.onnx"
    onnx.save(model, edited)
    with pytest.raises(UserError, match=rf"edited\.onnx: .*{message}"):
        Classifier.load(edited)


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_fixed_number_of_pictures(file: Path, tmp_path: Path, place: str) -> None:
    model = onnx.load(file)
    getattr(model.graph, place)[0].type.tensor_type.shape.dim[0].dim_value = 4
    edited = tmp_path / "edited.onnx"
    onnx.save(model, edited)
    name = getattr(model.graph, place)[0].name
    with pytest.raises(UserError, match=rf"edited\.onnx: its {name} are those of 4 pictures at once"):
        Classifier.load(edited)


def test_damage_that_shows_only_when_it_runs(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    at, before = list(model.graph.node).index(softmax), softmax.input[0]
    for columns in (7, 3):  # The logits of 2 pictures make no rows of 7.
        shape = helper.make_tensor(f"shape{columns}", onnx.TensorProto.INT64, [2], [-1, columns])
        model.graph.initializer.append(shape)
        node = helper.make_node("Reshape", [before, shape.name], [before := f"reshaped{columns}"])
        model.graph.node.insert(at, node)
        at += 1
    softmax.input[0] = before
    edited = tmp_path / "edited.onnx"
    onnx.save(model, edited)
    loaded = Classifier.load(edited)
    with pytest.raises(UserError, match=r"edited\.onnx: truncated or damaged \("):
        loaded.probabilities(np.zeros((2, 64, 64, 3), np.uint8))


def test_without_the_package_the_line_says_how_to_install_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs the package onnxruntime;.* pip install onnxruntime$"):
        Classifier.load(file)
