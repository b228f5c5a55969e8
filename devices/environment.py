"""The environment variables that JAX reads when it is imported, and whether it can start with them.

JAX is imported nowhere but to try it.
"""

import os
import re
import subprocess
import sys
import warnings

from ml_collections import ConfigDict

from resnet.errors import UserError
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
    if not compilation_cache:  # This also switches off one that the environment names.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    elif folder := cache_folder():
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        # Its disk may be full, or a kill have cut an entry off. Then the program is compiled.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def check(*, on_hosts: bool = False) -> None:
    """Checks that JAX can start with what the user has put into the environment.

    JAX starts once all hosts start it. So if there are several, all do it here.

    Raises:
        UserError: there is no such platform, or `XLA_FLAGS` cannot be used.
    """
    if os.environ.get("XLA_FLAGS"):
        _check_xla_flags()
    if on_hosts or os.environ.get("JAX_PLATFORMS") or os.environ.get("XLA_FLAGS"):
        _check_platforms()


def _check_xla_flags() -> None:
    """Parses `XLA_FLAGS` in another process, because XLA aborts a process that has unknown flags."""
    command = [sys.executable, "-c", "from jaxlib import _jax; _jax.CompileOptions()"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if match := re.search(r"^[EF]\d{4} .*?\] (.*)", result.stderr, re.MULTILINE):
        reason = match[1].partition(" (We assumed")[0].rstrip(".")
        raise UserError(f"XLA_FLAGS={os.environ['XLA_FLAGS']}: {reason}; correct it, or unset it")


def _check_platforms() -> None:
    """Starts JAX on the devices that the environment asks for."""
    import jax

    try:
        jax.devices()
    # The plugin of CUDA asserts that there is a driver. Without one, there is no more to say.
    except (RuntimeError, AssertionError) as error:
        names = ("JAX_PLATFORMS", "XLA_FLAGS")
        given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
        settings = " ".join(given) or "JAX_PLATFORMS="
        reason = re.split(r"\.? \((?:set JAX_PLATFORMS|you may need)", str(error))[0]
        raise UserError(
            f"{settings}: JAX cannot start on it{f' ({reason})' if reason else ''}; it found {_platforms()};"
            " name one of them, or unset it"
        ) from None


def _platforms() -> str:
    """Lists the platforms on which JAX starts when it may choose."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")
    }
    code = "import jax; print(*{device.platform for device in jax.devices()} | {'cpu'})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ", ".join(sorted(result.stdout.split())) or "none"
