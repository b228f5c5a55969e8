"""ONNX models of one network side by side."""

from pathlib import Path

import numpy as np

from datasets.types import Split
from evaluation.exported import compare_models, evenly_spaced
from resnet import Classifier
from resnet.formats.onnx_model import OnnxOptions
from tests.resnet.formats.test_onnx import random_classifier


def test_a_row_for_each_model(tmp_path: Path) -> None:
    classifier = random_classifier(image_size=32)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    labels = classifier.probabilities(images).argmax(-1).astype(np.int32)
    labels[0] = (labels[0] + 1) % 3
    models = {
        name: Classifier.load(classifier.export(tmp_path, "onnx", OnnxOptions(name)))
        for name in ("float32", "float16")
    }
    result = compare_models(models, Split(images, labels))
    assert (result["images"], result["corrupted_images"]) == (6, 6)
    for row, (name, model) in zip(result["models"], models.items(), strict=True):
        assert row["model"] == name
        assert row["MB"] == model.path.stat().st_size / 1e6
        assert row["accuracy"] == 5 / 6
        assert 0 < row["corrupted"] < 1


def test_images_are_taken_from_the_whole_split() -> None:
    split = Split(np.zeros((100, 1, 1, 3), np.uint8), np.arange(100, dtype=np.int32))
    assert evenly_spaced(split, 4).labels.tolist() == [0, 33, 66, 99]
    assert evenly_spaced(split, 200).labels.tolist() == list(range(100))
