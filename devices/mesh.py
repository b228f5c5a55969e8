"""Meshes over the devices, and how arrays lie on them: whole on all, split by batch, or split by seed."""

from collections.abc import Sequence
from math import gcd
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resnet.errors import UserError

BATCH_AXIS = "batch"
REPLICA_AXIS = "replica"  # of seeds that are trained at once

PyTree = TypeVar("PyTree")


def check_visible_devices(visible_devices: str) -> None:
    """Checks that JAX sees every GPU that `config.gpu.visible_devices` names.

    Raises:
        UserError: it sees fewer.
    """
    wanted = [index for index in visible_devices.split(",") if index.strip()]
    count = 0 if jax.default_backend() == "cpu" else jax.local_device_count()
    if len(wanted) > count:
        raise UserError(
            f"config.gpu.visible_devices={visible_devices}: names {len(wanted)} GPUs, but JAX sees {count};"
            " name those that there are, or leave it empty for all"
        )


def make_mesh(batch_size: int, replicas: int = 1) -> Mesh:
    """Returns a mesh over all local devices, for batches of `batch_size`.

    Several `replicas` that are trained at once are spread over the devices as evenly as their number allows.
    The batch of a replica is then split over the devices that the replica has.

    Raises:
        UserError: the batch does not divide evenly over the devices.
    """
    devices = np.array(jax.local_devices())
    rows = gcd(replicas, len(devices))
    columns = len(devices) // rows
    if batch_size % columns:
        raise UserError(
            f"config.batch_size={batch_size}: does not divide over {columns} devices; expected a"
            f" multiple of {columns}"
        )
    if replicas == 1:
        return Mesh(devices, (BATCH_AXIS,), axis_types=(AxisType.Auto,))
    return Mesh(devices.reshape(rows, columns), (REPLICA_AXIS, BATCH_AXIS), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole: data set, weights, optimizer state."""
    return NamedSharding(mesh, P())


def by_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, P(BATCH_AXIS))


def by_batch_of_call(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays [steps, batch, ...] that hold the batches of several steps."""
    return NamedSharding(mesh, P(None, BATCH_AXIS))


def has_replicas(mesh: Mesh) -> bool:
    """Whether `mesh` was made for several replicas."""
    return REPLICA_AXIS in mesh.axis_names


def by_replica(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays with a leading axis of replicas; `replicated` for a single one."""
    return NamedSharding(mesh, P(REPLICA_AXIS)) if has_replicas(mesh) else replicated(mesh)


def stack_states(states: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """Puts `states` on the devices with a leading axis of replicas; a single state keeps its shapes."""
    if not has_replicas(mesh):
        return jax.device_put(states[0], replicated(mesh))
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)
    return jax.device_put(stacked, by_replica(mesh))


def unstack_states(stacked: PyTree, count: int, mesh: Mesh) -> list[PyTree]:
    """Returns the `count` states that `stack_states` has stacked, or the same part of every state."""
    if not has_replicas(mesh):
        return [stacked]

    def state(index: int) -> Any:
        return jax.device_put(jax.tree.map(lambda leaf: leaf[index], stacked), replicated(mesh))

    return [state(index) for index in range(count)]


def describe_devices(mesh: Mesh) -> str:
    """Describes the devices of `mesh`, such as `1 x cpu (cpu)`."""
    device = mesh.devices.flat[0]
    return f"{mesh.devices.size} x {device.device_kind} ({device.platform})"
