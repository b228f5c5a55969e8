"""Full-size networks in other frameworks' own code against ours: what they saved, and what they load."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from resnet.formats.export import export
from resnet.network import Network, Weights
from resnet.pretrained import read_pretrained
from tests.peers import keras_networks, torch_networks
from tests.resnet.formats.test_golden import relative_errors, run
from tests.resnet.networks import make_network

PEERS: dict[str, tuple[Callable, str]] = {
    "torchvision resnet18": (lambda: torch_networks.torchvision_peer("resnet18"), "weights.pth"),
    "torchvision resnet50": (lambda: torch_networks.torchvision_peer("resnet50"), "weights.safetensors"),
    "torchvision resnext50_32x4d": (
        lambda: torch_networks.torchvision_peer("resnext50_32x4d"),
        "weights.safetensors",
    ),
    "torchvision wide_resnet50_2": (
        lambda: torch_networks.torchvision_peer("wide_resnet50_2"),
        "weights.safetensors",
    ),
    "timm resnet34": (lambda: torch_networks.timm_peer("resnet34"), "weights.safetensors"),
    "transformers resnet-18": (lambda: torch_networks.huggingface_peer(18), "folder"),
    "transformers resnet-50": (lambda: torch_networks.huggingface_peer(50), "folder"),
    "transformers resnet-50, v1": (lambda: torch_networks.huggingface_peer(50, v1=True), "folder"),
    "keras ResNet50": (lambda: keras_networks.applications_peer("ResNet50"), "model.weights.h5"),
    "keras ResNet50V2": (lambda: keras_networks.applications_peer("ResNet50V2"), "model.keras"),
    "keras, first ResNet-50": (lambda: keras_networks.old_peer(64, 1000), "weights.h5"),
}


@cache
def normalized(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((count, size, size, 3), np.float32)


@pytest.mark.parametrize("name", PEERS)
def test_logits_and_stages(name: str, tmp_path: Path, table: list[dict[str, object]]) -> None:
    make, file = PEERS[name]
    peer = make()
    peer.save(tmp_path / file)
    pretrained = read_pretrained(tmp_path / file)
    for size in (224, 64):
        errors = relative_errors(run(pretrained, normalized(size)), peer.run(normalized(size)))
        order = ("logits", "stem", "stage1", "stage2", "stage3", "stage4")
        table.append({"peer": name, "size": size, **{stage: errors[stage] for stage in order}})
        assert errors.keys() == set(order)
        assert max(errors.values()) <= 1e-4, errors


def random_network(images: np.ndarray, **model: object) -> tuple[Network, Weights]:
    """Returns a network of six classes that tells `images` apart, whose norms are nowhere 0 or 1."""
    network = make_network(6, **{"depth": 50, "width": 64} | model)
    rng = np.random.default_rng(0)
    bounds = {"scale": (0.5, 1.5), "bias": (-0.5, 0.5), "mean": (-0.5, 0.5), "var": (0.5, 2.0)}
    named = {
        name: leaf
        if (kind := name.rsplit(".", 1)[1]) == "kernel"
        else rng.uniform(*bounds[kind], leaf.shape).astype(np.float32)
        for name, leaf in network.init(0).named().items()
    }
    named["head.kernel"] = named["head.kernel"] * 10
    weights = Weights.from_named(named)
    # The statistics of these images themselves, from how far one step moves the running ones: with any
    # others a deep network of random weights gives the same answer to every image.
    moved = jax.jit(lambda w, x: network.apply(w, x, train=True)[2])(weights, images)
    own = jax.tree.map(lambda new, old: np.asarray(10 * new - 9 * old), moved, weights.batch_stats)
    return network, Weights(weights.params, own)


Load = Callable[[Path], Callable[[np.ndarray], np.ndarray]]  # from uint8 images [N, H, W, 3] to logits


def by_default(images: np.ndarray) -> np.ndarray:
    """Normalises `images` as `Preprocessing` does by default."""
    return ((images / 255 - 0.5) / 0.25).astype(np.float32)


def load_in_torchvision(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    model = torch_networks.torchvision.models.resnet50(num_classes=6).eval()
    model.load_state_dict(load_file(path))
    return lambda images: model(torch.from_numpy(by_default(images)).permute(0, 3, 1, 2)).detach().numpy()


def load_in_transformers(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    model = transformers.ResNetForImageClassification.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    return lambda images: model(**processor(list(images), return_tensors="pt")).logits.detach().numpy()


def load_in_keras(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    model = keras.models.load_model(path)
    return lambda images: np.asarray(model(by_default(images), training=False))


KERAS_V2 = {"variant": "v2", "max_pool": "zero_padded", "stride_in": "last_block", "conv_bias": True}


@pytest.mark.parametrize(
    ("format", "load", "model"),
    [
        ("torchvision", load_in_torchvision, {}),
        ("torchvision", load_in_torchvision, {"channel_order": "bgr"}),
        ("huggingface", load_in_transformers, {}),
        ("huggingface", load_in_transformers, {"channel_order": "bgr", "mean": (0.4, 0.5, 0.6)}),
        ("huggingface", load_in_transformers, {"variant": "v1", "depth": 101, "width": 16}),
        ("keras", load_in_keras, {}),
        ("keras", load_in_keras, {"norm_epsilon": 1e-3, "variant": "v1", "width": 16}),
        ("keras", load_in_keras, {**KERAS_V2, "width": 16}),
        ("keras", load_in_keras, {"depth": 28, "stem": "3x3", "max_pool": "none", "width": 16}),
        (
            "keras",
            load_in_keras,
            {"stem": "deep", "shortcut": "average_pool", "squeeze": 4, "groups": 4, "width": 16},
        ),
    ],
)
def test_exports_are_loaded_and_predict_the_same(
    format: str, load: Load, model: dict, tmp_path: Path, table: list[dict[str, object]]
) -> None:
    # Each of its own colour: the network tells them apart.
    rng = np.random.default_rng(1)
    images = (rng.uniform(0, 255, (64, 64, 64, 3)) * rng.uniform(0, 1, (64, 1, 1, 3))).astype(np.uint8)
    network, weights = random_network(images, **model)
    expected = np.asarray(jax.jit(lambda w, x: network.apply(w, x, train=False)[0])(weights, images))
    path = export(network, weights, tuple("abcdef"), format=format, folder=tmp_path)
    found = load(path)(images)
    error = float(abs(found - expected).max() / abs(expected).max())
    changes = ", ".join(f"{name}={value}" for name, value in model.items())
    table.append({"peer": f"export to {format} {changes}", "size": 64, "logits": error})
    assert error <= 1e-4
    assert len(set(expected.argmax(-1))) > 1
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def test_an_export_without_a_head_is_a_model_of_transformers(tmp_path: Path) -> None:
    network = make_network(0, width=16)
    weights = network.init(0)
    path = export(network, weights, (), format="huggingface", folder=tmp_path)
    model = transformers.AutoModel.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    found = model(**processor(list(images), return_tensors="pt")).pooler_output.flatten(1).detach().numpy()
    _, expected, _ = network.apply(weights, images, train=False)
    np.testing.assert_allclose(found, expected["pooled"], rtol=1e-3, atol=1e-4)
