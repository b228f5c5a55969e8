"""ONNX Runtime, imported so that it reports nothing to its makers."""

import os
from types import ModuleType

from resnet.errors import UserError


def import_onnx_runtime(purpose: str) -> ModuleType:
    """Returns the package onnxruntime.

    Since version 1.29 it would write a number for this machine into the user's cache and send reports of its
    use, unless it is told otherwise before it is imported. Who wants that sets ORT_DISABLE_TELEMETRY to 0.

    Raises:
        UserError: it is not installed; `purpose` says what needs it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{purpose}: needs the package onnxruntime; install it: pip install onnxruntime"
        ) from None
    return onnxruntime
