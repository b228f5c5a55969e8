"""Narrow networks that other frameworks made, ran and saved themselves; see tests/peers/make_golden.py."""

import gzip
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from resnet.network import Network
from resnet.pretrained import Pretrained, read_pretrained

FOLDER = Path(__file__).parent / "golden"
FIELDS = {
    "timm_18.safetensors": {"depth": 18, "variant": "v1.5", "width": 2, "norm_epsilon": 1e-5},
    "huggingface_50": {"depth": 50, "variant": "v1.5", "width": 2, "norm_epsilon": 1e-5},
    "keras_50.h5": {"depth": 50, "variant": "v1", "stem_width": 64, "norm_epsilon": 1.001e-5},
    "keras_50v2.weights.h5": {"depth": 50, "variant": "v2", "stem_width": 64, "stride_in": "last_block"},
    "keras_50_old.h5": {"depth": 50, "variant": "v1", "max_pool": "unpadded", "norm_epsilon": 1e-3},
}


def golden_images() -> np.ndarray:
    """Two normalised images [2, 64, 64, 3]."""
    return np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)


def summarized(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each stage's mean over all positions and its value at one, and the logits: what a golden file keeps."""
    return {
        name: values if values.ndim == 2 else np.stack([values.mean((1, 2)), values[:, 1, 1]])
        for name, values in features.items()
    }


def run(pretrained: Pretrained, normalized: np.ndarray) -> dict[str, np.ndarray]:
    """Our features and logits for images that are normalised as the other framework takes them."""
    preprocessing = replace(
        pretrained.preprocessing, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), channel_order="rgb"
    )
    network = Network(
        pretrained.architecture,
        preprocessing,
        len(pretrained.class_names),
        compute_dtype="float32",
        convolution="lax",
    )
    logits, features, _ = network.apply(pretrained.weights, normalized, train=False)
    return {name: np.asarray(value) for name, value in {**features, "logits": logits}.items()}


def relative_errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest error of each array of `expected`, relative to its largest value."""
    assert all(found[name].shape == values.shape for name, values in expected.items())
    return {
        name: float(abs(found[name] - values).max() / abs(values).max()) for name, values in expected.items()
    }


@pytest.fixture(params=FIELDS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """The name of a golden network and where it lies unpacked."""
    name = request.param
    packed = FOLDER / name
    for file in packed.iterdir() if packed.is_dir() else [FOLDER / f"{name}.gz"]:
        target = tmp_path / file.relative_to(FOLDER).with_suffix("")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(gzip.decompress(file.read_bytes()))
    return name, tmp_path / name


def test_logits_and_every_stage_are_those_of_the_framework(golden: tuple[str, Path]) -> None:
    name, path = golden
    pretrained = read_pretrained(path)
    assert {field: getattr(pretrained.architecture, field) for field in FIELDS[name]} == FIELDS[name]
    assert len(pretrained.class_names) == 5
    with np.load(FOLDER / "expected.npz") as archive:
        expected = {key.split("/")[1]: archive[key] for key in archive.files if key.startswith(name + "/")}
    assert expected.keys() == {"stem", "stage1", "stage2", "stage3", "stage4", "logits"}
    errors = relative_errors(summarized(run(pretrained, golden_images())), expected)
    assert max(errors.values()) < 1e-4, errors


def test_weights_of_the_older_names_whose_layers_list_a_padding_of_the_max_pool(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(gzip.decompress((FOLDER / "keras_50_old.h5.gz").read_bytes()))
    with h5py.File(path, "r+") as file:
        file.create_group("pool1_pad").attrs["weight_names"] = []
        file.attrs["layer_names"] = [*file.attrs["layer_names"], "pool1_pad"]
    architecture = read_pretrained(path).architecture
    assert (architecture.max_pool, architecture.norm_epsilon) == ("padded", 1e-3)
