"""Weights of others for tests: a narrow ResNet-18 as torchvision would save it."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from resnet.formats import torchvision
from resnet.formats.names import Arrays
from resnet.network import Weights
from tests.runs import small_config
from training.network import make_network

SIZE = 64  # of its images
HAND_SHAPES = ("fist", "palm", "point")  # three classes for it


def narrow_config() -> ConfigDict:
    """Returns the config of the network whose weights `random_weights` draws."""
    return small_config(
        **{"model.width": 8, "data.image_size": SIZE, "compute_dtype": "float32", "compilation_cache": False}
    )


def random_weights(classes: int) -> Weights:
    """Returns random weights that distinguish images; the head of a fresh network is nearly zero."""
    weights = make_network(narrow_config(), classes).init(0)
    weights.params["head"]["kernel"] = weights.params["head"]["kernel"] * 30
    return weights


def in_torchvision(named: Arrays) -> Arrays:
    """Returns `named` by the names and in the shapes of torchvision."""
    arrays = {}
    for name, array in named.items():
        foreign, transform = torchvision.FORMAT.foreign_name(name)
        arrays[foreign] = np.ascontiguousarray(transform.to_foreign(array))
    return arrays


def save_in_torchvision(weights: Weights, file: Path, *, with_head: bool = True) -> Path:
    """Writes `weights` as torchvision would save them, and returns `file`."""
    arrays = in_torchvision(weights.named())
    save_file({name: array for name, array in arrays.items() if with_head or "fc" not in name}, file)
    return file
