"""How much memory a device has."""

import jax

from resnet.memory import machine_memory


def device_memory() -> int:
    """Returns the bytes of memory that JAX may use on the first device; on a CPU those of the machine."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or machine_memory()
