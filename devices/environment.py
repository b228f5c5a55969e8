"""The environment variables that JAX reads when it is imported. Nothing here imports JAX."""

import os

from ml_collections import ConfigDict

from resnet.files import cache_folder


def prepare(gpu: ConfigDict, *, compilation_cache: bool, training: bool) -> None:
    """Puts `config.gpu` and the compilation cache into the environment that JAX starts in.

    The choice of devices and of their memory concerns `training` alone: a run may be used on another machine,
    or beside another training.
    """
    if training:
        os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # The old name; JAX refuses to see both.
        os.environ["XLA_CLIENT_MEM_FRACTION"] = str(gpu.memory_fraction)
        if gpu.visible_devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu.visible_devices
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = str(training and gpu.preallocate).lower()
    if gpu.deterministic:
        flag = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if gpu.matmul_precision != "default":
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = gpu.matmul_precision
    if compilation_cache and (folder := cache_folder()):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
