"""The contestants: what is asked of each, and where each is written."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

CLASSES = 6


@dataclass(frozen=True)
class Case:
    """What every contestant of a run does: `task` is "train" or "inference", `device` "cpu" or "gpu".

    The last two are for ours alone: how many images the data set has that batches come from (0: one
    batch's), and over how many simulated devices of a CPU a batch is split.
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

    def images(self, count: int = 0) -> np.ndarray:
        """Noise, uint8 [N, H, W, 3]: `count` images, a batch by default."""
        shape = (count or self.batch, self.image_size, self.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def normalized_images(self) -> np.ndarray:
        """The same batch as float32, normalised as a peer's loader hands it over."""
        return (self.images().astype(np.float32) / 255 - 0.5) / 0.25

    def labels(self, count: int = 0) -> np.ndarray:
        """Labels int32 [N] of `CLASSES` classes, `count` or a batch of them."""
        return np.arange(count or self.batch, dtype=np.int32) % CLASSES


class Contestant(NamedTuple):
    """A built and loaded contestant.

    `run(n)` makes n steps and returns when their results are there; in inference it waits for each.
    `peak_device_memory` returns the accelerator's bytes in use at most, None on CPU.
    """

    run: Callable[[int], object]
    parameters: int
    device: str
    peak_device_memory: Callable[[], int | None] = lambda: None


@dataclass(frozen=True)
class Peer:
    """`module` of this package has `make(name, case) -> Contestant`; the rest is what it needs."""

    module: str
    packages: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("train", "inference")
    devices: tuple[str, ...] = ("cpu", "gpu")
    compiles: bool = False  # and keeps what it compiled for the next process

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


JAX = ("jax", "flax", "optax")
# TensorFlow leaves oneDNN off on CPUs without AVX-512, where it is 2.5 times as fast.
ON_TENSORFLOW = {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}
FREEZING = {"TORCHINDUCTOR_FREEZING": "1"}
PEERS = {
    "ours": Peer("ours", JAX, compiles=True),
    "flax": Peer("stock_flax", JAX, compiles=True),
    "torch_eager": Peer("torch_resnet", ("torch",)),
    "torch_compile": Peer("torch_resnet", ("torch",), FREEZING, compiles=True),
    "torch_max_autotune": Peer("torch_resnet", ("torch",), FREEZING, devices=("gpu",), compiles=True),
    "torch_cuda_graph": Peer("torch_resnet", ("torch",), tasks=("train",), devices=("gpu",), compiles=True),
    "torch_jit": Peer("torch_resnet", ("torch",), tasks=("inference",)),
    "keras_tf": Peer("keras_applications", ("keras", "tensorflow"), ON_TENSORFLOW),
    "keras_jax": Peer("keras_applications", ("keras", "jax"), {"KERAS_BACKEND": "jax"}, compiles=True),
}
# Matrix products: they give the floor.
PRODUCTS = {
    "product_jax": Peer("matrix_product", ("jax",)),
    "product_torch": Peer("matrix_product", ("torch",)),
}
