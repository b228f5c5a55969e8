"""Meshes over the devices, and how arrays lie on them: whole on all, split by batch, or split by seed."""

from collections.abc import Sequence
from math import gcd
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
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


def make_mesh(batch_size: int, replicas: int = 1, *, all_hosts: bool = False) -> Mesh:
    """Returns a mesh over all devices of this host, or of `all_hosts`, for batches of `batch_size`.

    Those of a host stand side by side, in the order of the hosts. Several `replicas` that are trained at once
    are spread over the devices as evenly as their number allows. The batch of a replica is then split over
    the devices that the replica has.

    Raises:
        UserError: the batch does not divide evenly over the devices.
    """
    found = jax.devices() if all_hosts and jax.process_count() > 1 else jax.local_devices()
    devices = np.array(sorted(found, key=lambda device: (device.process_index, device.id)))
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


def own_rows(mesh: Mesh, batch_size: int) -> slice:
    """Returns which rows of a batch the devices of this host have; on a single host it is all of them."""
    shards = by_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = [shard[0].indices(batch_size) for shard in shards if shard is not None]
    return slice(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays that every host has whole on the devices, as `sharding` says."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put_leaf(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put_leaf, tree)


def own_copy(tree: PyTree) -> PyTree:
    """Returns replicated arrays in host memory if several hosts have them. One can save them alone then."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else np.array(leaf.addressable_data(0)), tree
    )


def own_sharding(mesh: Mesh) -> jax.sharding.Sharding:
    """Returns the sharding of arrays that are whole on the devices of this host, or on one of them."""
    whole = replicated(mesh)
    return whole if whole.is_fully_addressable else SingleDeviceSharding(jax.local_devices()[0])


def put_own_rows(rows: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    """Returns the array of this `shape` over all hosts, of which this host has the `rows` of its devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(rows, sharding)
    return jax.make_array_from_process_local_data(sharding, rows, shape)


def has_replicas(mesh: Mesh) -> bool:
    """Whether `mesh` was made for several replicas."""
    return REPLICA_AXIS in mesh.axis_names


def by_replica(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays with a leading axis of replicas; `replicated` for a single one."""
    return NamedSharding(mesh, P(REPLICA_AXIS)) if has_replicas(mesh) else replicated(mesh)


def stack_states(states: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """Puts `states` on the devices with a leading axis of replicas; a single state keeps its shapes."""
    if not has_replicas(mesh):
        return put(states[0], replicated(mesh))
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
