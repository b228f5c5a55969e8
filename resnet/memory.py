"""The memory of this machine, and whether a device with memory of its own may be used."""

import os
from pathlib import Path

_LIMIT_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def machine_memory() -> int:
    """Returns the bytes of memory of this machine, or of the container that it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(_LIMIT_OF_CONTAINER.read_text()))
    except (OSError, ValueError):  # There is no such file, or it says "max".
        return memory


def has_accelerator() -> bool:
    """Returns whether there may be a GPU or a TPU, which has memory of its own."""
    devices = ("nvidia0", "nvidiactl", "kfd", "accel0", "vfio", "dxg")
    return os.environ.get("JAX_PLATFORMS") != "cpu" and any(Path("/dev", name).exists() for name in devices)


def gigabytes(size: float) -> str:
    """Returns a number of bytes in words."""
    return f"{size / 1e9:,.1f} GB"
