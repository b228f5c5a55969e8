"""Makes an ONNX model smaller: its weights stored as float16, or its arithmetic in int8."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from resnet.errors import UserError
from resnet.files import temporary_folder
from resnet.formats.onnx_runtime import import_onnx_runtime

if TYPE_CHECKING:
    import onnx

# The oldest operators that quantize each channel of a kernel by itself, and the format that came with them.
INT8_OPSET, INT8_IR_VERSION = 13, 7
# What is done to the pixels first stays in float32, as does the softmax.
_QUANTIZED = ("Conv", "Gemm", "Add", "Mul", "Relu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool")
_CALIBRATION_BATCH = 4  # All maps of a batch are in memory at once.


def with_float16_weights(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Returns `model` with its weights stored as float16, which is half the size.

    A cast to float32 follows each of them. A runtime does it once, when it loads the model. The arithmetic is
    that of float32 on every processor.

    Raises:
        UserError: a weight is larger than any number of float16.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) == 0:
            continue
        name, array = tensor.name, numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(
                f"--precision=float16: {name} has a weight of {np.abs(array).max():.3g}, more than float16"
                f" holds ({np.finfo(np.float16).max:,.0f}); use float32"
            )
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=name, to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def quantized(model: "onnx.ModelProto", images: np.ndarray) -> "onnx.ModelProto":
    """Returns `model` with kernels and maps in int8, by ONNX Runtime's static quantization.

    The ranges of the maps are those that `images`, uint8 [N, S, S, 3], give. A kernel has a scale for each
    channel (Jacob et al. 2018, arXiv:1712.05877, section 3). Its numbers have seven bits, as processors
    without VNNI add pairs of products in 16 bits.

    Raises:
        UserError: the package onnxruntime is not installed.
    """
    import_onnx_runtime("--precision=int8")
    import onnx
    from onnx import version_converter
    from onnxruntime import quantization

    newer = version_converter.convert_version(model, INT8_OPSET)
    newer.ir_version = INT8_IR_VERSION

    class Batches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = _batches(images, newer.graph.input[0].name)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    with temporary_folder() as folder, _without_advice():
        # Of a model in memory, older versions leave the arrays in a folder that they remove.
        before, after = folder / "float32.onnx", folder / "int8.onnx"
        try:
            onnx.save(newer, before)
            quantization.quantize_static(
                before,
                after,
                Batches(),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(_QUANTIZED),
            )
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); free some space, or set TMPDIR to another"
                " folder"
            ) from None
        smaller = onnx.load(after)
    del smaller.metadata_props[:]
    smaller.metadata_props.extend(model.metadata_props)
    smaller.producer_name, smaller.producer_version = model.producer_name, ""
    return smaller


def _batches(images: np.ndarray, name: str) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(images), _CALIBRATION_BATCH):
        yield {name: images[start : start + _CALIBRATION_BATCH]}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silences the advice to prepare a model first: these have their norms folded already."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
