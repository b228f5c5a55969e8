"""Residual networks and what one can do with a trained one: `from resnet import Classifier`."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
__all__ = ["Architecture", "Classifier", "Prediction", "Preprocessing", "UserError", "load_pretrained"]

_MODULES = {
    "Architecture": "architecture",
    "Classifier": "classifier",
    "Prediction": "classifier",
    "Preprocessing": "preprocessing",
    "UserError": "errors",
    "load_pretrained": "pretrained",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: reading images, for one, needs no JAX.
    if name in _MODULES:
        return getattr(import_module(f"resnet.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
