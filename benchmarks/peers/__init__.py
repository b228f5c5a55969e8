"""The contestants: the task that all of them do, and the module that builds each."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

CLASSES = 6
DTYPES = {"cpu": "float32", "gpu": "bfloat16"}  # in which a device trains if nothing else is said


@dataclass(frozen=True)
class Case:
    """The task of all contestants of a run: `task` is "train" or "inference", `device` "cpu" or "gpu".

    `dataset_size` is the number of images from which batches are gathered, 0 for a single batch. `devices` is
    the number of simulated devices of a CPU that share a batch, for this project alone. `recipe` is a file
    that `benchmarks.time_to_accuracy` writes. Whoever trains by it begins with the step `first_step`.
    """

    task: str
    depth: int
    batch: int
    image_size: int
    dtype: str
    device: str
    steps: int
    dataset_size: int = 0
    devices: int = 1
    recipe: str = ""
    first_step: int = 0

    def images(self, count: int = 0) -> np.ndarray:
        """Returns `count` images of noise, uint8 [N, H, W, 3], or a batch of them by default."""
        shape = (count or self.batch, self.image_size, self.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def normalized_images(self) -> np.ndarray:
        """Returns a batch of the same noise as float32, normalised as by the data loader of a peer."""
        return (self.images().astype(np.float32) / 255 - 0.5) / 0.25

    def labels(self, count: int = 0) -> np.ndarray:
        """Returns `count` labels of `CLASSES` classes, int32 [N], or a batch of them by default."""
        return np.arange(count or self.batch, dtype=np.int32) % CLASSES


class Contestant(NamedTuple):
    """A contestant that is ready to run.

    `run(n)` makes n steps and returns once their results are there; in inference it waits for each step.
    `peak_device_memory` returns the most bytes that the accelerator held at once, or None on a CPU.
    """

    run: Callable[[int], object]
    parameters: int
    device: str
    peak_device_memory: Callable[[], int | None] = lambda: None


@dataclass(frozen=True)
class Peer:
    """A contestant before it is built: `make(name, case)` in `module` of this package returns it.

    It needs `packages` and the variables of `environment`. It can do `tasks` on `devices`. If it `compiles`,
    it keeps what it compiled for the next process.
    """

    module: str
    packages: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("train", "inference")
    devices: tuple[str, ...] = ("cpu", "gpu")
    compiles: bool = False

    def missing(self) -> list[str]:
        """Returns the packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


JAX = ("jax", "flax", "optax")
# TensorFlow does not use oneDNN on CPUs without AVX-512, although it is 2.5 times as fast there.
ON_TENSORFLOW = {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}
ONNX = ("onnx", "onnxruntime")
PREDICTS_ON_CPU: dict[str, Any] = {"tasks": ("inference",), "devices": ("cpu",)}
FREEZING = {"TORCHINDUCTOR_FREEZING": "1"}
PEERS = {
    "ours": Peer("ours", JAX, compiles=True),
    "flax": Peer("stock_flax", JAX, compiles=True),
    "torch_eager": Peer("torch_resnet", ("torch",)),
    "torch_compile": Peer("torch_resnet", ("torch",), FREEZING, compiles=True),
    "torch_max_autotune": Peer("torch_resnet", ("torch",), FREEZING, devices=("gpu",), compiles=True),
    "torch_cuda_graph": Peer("torch_resnet", ("torch",), FREEZING, devices=("gpu",), compiles=True),
    "torch_jit": Peer("torch_resnet", ("torch",), tasks=("inference",)),
    "ours_onnx": Peer("onnx_models", (*JAX, *ONNX), **PREDICTS_ON_CPU),
    "ours_int8": Peer("onnx_models", (*JAX, *ONNX), **PREDICTS_ON_CPU),
    "torch_onnx": Peer("onnx_models", ("torch", "onnxscript", *ONNX), **PREDICTS_ON_CPU),
    "torch_int8": Peer("onnx_models", ("torch", "onnxscript", *ONNX), **PREDICTS_ON_CPU),
    "openvino": Peer("onnx_models", ("torch", "onnxscript", "openvino", *ONNX), **PREDICTS_ON_CPU),
    "keras_tf": Peer("keras_applications", ("keras", "tensorflow"), ON_TENSORFLOW),
    "keras_jax": Peer("keras_applications", ("keras", "jax"), {"KERAS_BACKEND": "jax"}, compiles=True),
}
# Trains by the recipe of a config.
RECIPES = {"torch_recipe": Peer("torch_recipe", ("torch",))}
# Matrix products, which give the floor.
PRODUCTS = {
    "product_jax": Peer("matrix_product", ("jax",)),
    "product_torch": Peer("matrix_product", ("torch",)),
}
CONTESTANTS = PEERS | RECIPES | PRODUCTS
