"""The machine and the packages that a report was measured with."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "tensorflow", "tensorflow-cpu", "keras")


def stamp() -> dict[str, Any]:
    """Returns the `machine` and the `versions` of a report."""
    return {"machine": _machine(), "versions": _versions()}


def gpu_names() -> list[str]:
    """Returns the names of the GPUs that `nvidia-smi` lists, none where there is no such program."""
    return _nvidia_smi("name")


def gpu_memory() -> int:
    """Returns the bytes that are in use on all GPUs, by all processes, as `nvidia-smi` counts them."""
    return sum(int(mebibytes) * 2**20 for mebibytes in _nvidia_smi("memory.used"))


def _nvidia_smi(field: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
