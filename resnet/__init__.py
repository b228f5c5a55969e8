"""Residual networks and what one can do with a trained one: `from resnet import Classifier`."""

from typing import Any

__all__ = ["Classifier", "Prediction"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: reading images, for one, needs no JAX.
    if name in __all__:
        from resnet import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
