"""ONNX models in ONNX Runtime and OpenVINO: those that this project exports, and those that PyTorch does."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.peers import CLASSES, Case, Contestant
from resnet.formats.onnx_runtime import import_onnx_runtime

CALIBRATION_IMAGES = 32


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant. Our models take pixels, the others images that are normalised before."""
    folder = Path(tempfile.mkdtemp())  # below TMPDIR, which the worker's parent removes
    model = _ours(case, name, folder) if name.startswith("ours") else _from_torch(case, name, folder)
    images = case.images() if name.startswith("ours") else case.normalized_images().transpose(0, 3, 1, 2)
    predict = (_in_openvino if name == "openvino" else _in_onnx_runtime)(model, np.ascontiguousarray(images))

    def run(steps: int) -> None:
        for _ in range(steps):
            predict()

    weights = onnx.load(model, load_external_data=False).graph.initializer
    return Contestant(run, sum(int(np.prod(tensor.dims)) for tensor in weights), "CPU")


def _ours(case: Case, name: str, folder: Path) -> Path:
    from benchmarks.peers.ours import make_config
    from resnet import Classifier
    from resnet.formats.onnx_model import OnnxOptions
    from training.network import make_network

    network = make_network(make_config(case), CLASSES)
    classifier = Classifier(network, network.init(seed=0), tuple("012345"))
    precision = "int8" if name.endswith("int8") else "float32"
    return classifier.export(folder, "onnx", OnnxOptions(precision, case.images(CALIBRATION_IMAGES)))


def _from_torch(case: Case, name: str, folder: Path) -> Path:
    import_onnx_runtime("this contestant")
    import torch
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from benchmarks.peers.torch_resnet import ResNet

    file = folder / "torch.onnx"
    images = case.normalized_images().transpose(0, 3, 1, 2)
    torch.onnx.export(
        ResNet(case.depth).eval(),
        (torch.from_numpy(images.copy()),),
        file,
        input_names=["images"],
        external_data=False,
        verbose=False,
    )
    if not name.endswith("int8"):
        return file

    class Batches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter([{"images": images.copy()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    prepared, smaller = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(file, prepared)
    quantization.quantize_static(
        prepared,
        smaller,
        Batches(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return smaller


def _in_onnx_runtime(model: Path, images: np.ndarray) -> Callable[[], object]:
    session = import_onnx_runtime("this contestant").InferenceSession(
        model, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})


def _in_openvino(model: Path, images: np.ndarray) -> Callable[[], object]:
    import openvino

    # On processors with AMX it would otherwise compute in bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.compile_model(str(model), "CPU", settings)
    return lambda: compiled([images])
