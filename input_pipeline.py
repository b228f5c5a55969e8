"""From a data set in host memory to batches on the devices: shuffle, pad and shard."""

from math import gcd
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

import datasets
from augment import augment, grown
from datasets.types import Split
from errors import UserError

BATCH_AXIS = "batch"
REPLICA_AXIS = "replica"


class DeviceSplit(NamedTuple):
    """A split on the devices, on each of them whole: `images` uint8 [N, H, W, C] and `labels` int32 [N].

    The channels are red, green, blue and, where the split has mattes, the matte.
    """

    images: jax.Array
    labels: jax.Array


def check_visible_devices(visible_devices: str) -> None:
    """Checks that JAX sees every GPU that `config.gpu.visible_devices` names.

    Raises:
        UserError: it sees fewer.
    """
    wanted = [index for index in visible_devices.split(",") if index.strip()]
    found = 0 if jax.default_backend() == "cpu" else jax.local_device_count()
    if len(wanted) > found:
        raise UserError(
            f"config.gpu.visible_devices={visible_devices}: names {len(wanted)} GPUs, but JAX sees {found};"
            " name those that there are, or leave it empty for all"
        )


def make_mesh(batch_size: int, replicas: int = 1) -> Mesh:
    """A mesh over all local devices, for batches of `batch_size`.

    Several `replicas`, trained as one, go to devices of their own as far as they divide over them; each
    batch is split over the devices that are left to its replica.

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
    """The sharding of what every device holds whole: data set, weights, optimizer state."""
    return NamedSharding(mesh, P())


def has_replicas(mesh: Mesh) -> bool:
    """Whether `mesh` was made for several replicas."""
    return REPLICA_AXIS in mesh.axis_names


def by_replica(mesh: Mesh) -> NamedSharding:
    """The sharding of what has a leading axis of replicas; `replicated` on a mesh for a single one."""
    return NamedSharding(mesh, P(REPLICA_AXIS)) if has_replicas(mesh) else replicated(mesh)


def training_images(train: Split, config: ConfigDict) -> Split:
    """What batches come from: `train`, and after it what `config.data` adds.

    Raises:
        UserError: a number of images is out of range.
    """
    return datasets.extend_training(train, config.data, with_mattes=config.augment.background > 0)


def put_on_devices(split: Split, mesh: Mesh) -> DeviceSplit:
    """Copies `split` to every device of `mesh`."""
    images = split.images
    if split.mattes is not None:
        images = np.concatenate([images, split.mattes[..., None]], axis=-1)
    return DeviceSplit(*jax.device_put((images, split.labels), replicated(mesh)))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in an epoch; what is left over is in the next epoch's permutation.

    Raises:
        UserError: the batch is larger than the data set.
    """
    if batch_size > len(split.labels):
        raise UserError(
            f"config.batch_size={batch_size}: larger than the {len(split.labels)} training images;"
            " expected at most that many"
        )
    return len(split.labels) // batch_size


def epoch_permutation(seed: int, epoch: jax.Array, size: int) -> jax.Array:
    """The order int32 [size] in which the images of `epoch` come: a function of seed and epoch alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), epoch)
    return jax.random.permutation(key, size)


def step_keys(seed: int | jax.Array, step: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of what `step` draws: its added images, and its augmentation.

    Two, as a key that is used twice would draw both alike.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)
    batch_key, augment_key = jax.random.split(key)
    return batch_key, augment_key


def training_batch(
    split: DeviceSplit,
    permutation: jax.Array,
    index: jax.Array,
    key: jax.Array,
    config: ConfigDict,
    mesh: Mesh,
    progress: float | jax.Array = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Batch `index` of an epoch: uint8 images [batch, H, W, C] and labels [batch], split over `mesh`.

    Where `split` holds more images than `permutation` orders, a share of the batch gives way to some of
    these, drawn by `key`: `config.data.rendered_share_at_start` of it at first, and with `progress`, the
    share of the training that is done, ever nearer to `config.data.rendered_share`.
    """
    batch_size = config.batch_size
    chosen = lax.dynamic_slice(permutation, (index * batch_size,), (batch_size,))
    if len(split.labels) > len(permutation):
        gives_way_key, which_key = jax.random.split(key)
        start = config.data.rendered_share_at_start
        share = start + grown(config.data.rendered_share - start, progress, config.augment.ramp)
        gives_way = jax.random.bernoulli(gives_way_key, share, (batch_size,))
        added = jax.random.randint(which_key, (batch_size,), len(permutation), len(split.labels))
        chosen = jnp.where(gives_way, added, chosen)
    chosen = lax.with_sharding_constraint(chosen, NamedSharding(mesh, P(BATCH_AXIS)))
    return split.images[chosen], split.labels[chosen]


def first_training_batch(split: Split, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """A first batch, augmented as later in training: images uint8 [N, H, W, 3] and labels.

    Of several seeds it is the first one's.

    Raises:
        UserError: the batch is larger than the split, or does not divide over the devices.
    """
    steps_per_epoch(split, config.batch_size)
    mesh = make_mesh(config.batch_size)
    seed = np.uint32(config.seeds[0] if config.seeds else config.seed)
    size, split = len(split.labels), training_images(split, config)

    @jax.jit
    def batch(device_split: DeviceSplit) -> tuple[jax.Array, jax.Array]:
        permutation = epoch_permutation(seed, 0, size)
        batch_key, augment_key = step_keys(seed, 0)
        images, labels = training_batch(device_split, permutation, 0, batch_key, config, mesh)
        return augment(augment_key, images, config.augment), labels

    images, labels = batch(put_on_devices(split, mesh))
    return np.asarray(images).round().astype(np.uint8), np.asarray(labels)


def evaluation_batches(images: np.ndarray, batch_size: int) -> np.ndarray:
    """`images` [N, H, W, C] as [batches, batch, H, W, C]; the last one filled up with zeros."""
    count = -(-len(images) // batch_size)
    padded = np.zeros((count * batch_size, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    return padded.reshape(count, batch_size, *images.shape[1:])
