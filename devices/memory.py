"""Which memory a device has, and the device that is the processor itself."""

import jax

from resnet.memory import machine_memory


def device_memory() -> int:
    """Returns the bytes that JAX may use on the first device. On a CPU it is the machine's memory."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or machine_memory()


def processor() -> jax.Device | None:
    """Returns the processor as a device of JAX, or None if `JAX_PLATFORMS` leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
