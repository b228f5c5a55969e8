"""Small networks for the tests of the library."""

from dataclasses import fields
from typing import Any

from resnet.architecture import Architecture
from resnet.network import Network
from resnet.preprocessing import Preprocessing

_PREPROCESSING = {field.name for field in fields(Preprocessing)}


def make_network(num_classes: int = 3, *, convolution: str = "auto", **changes: Any) -> Network:
    """Returns a narrow ResNet-18; `changes` are fields of `Architecture` or `Preprocessing`."""
    model = {name: value for name, value in changes.items() if name not in _PREPROCESSING}
    data = {name: value for name, value in changes.items() if name in _PREPROCESSING}
    architecture = Architecture(**{"depth": 18, "width": 4, "zero_init_last": True} | model)
    return Network(
        architecture, Preprocessing(**data), num_classes, compute_dtype="float32", convolution=convolution
    )
