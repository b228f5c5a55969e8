"""From a data set in host memory to batches on the devices: shuffle, pad and shard."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import datasets
from datasets.types import Split
from devices.mesh import by_batch, make_mesh, replicated
from resnet.errors import UserError
from training.augment import augment, grown
from training.mixing import mix

Seed = int | np.unsignedinteger | jax.Array  # uint32 [] on the devices


class DeviceSplit(NamedTuple):
    """A split that lies whole on every device: `images` uint8 [N, H, W, C] and `labels` int32 [N].

    The channels are red, green, blue and, for a split with mattes, the matte. `class_weights` float32
    [classes] weigh the loss; see `training.loss.class_weights`.
    """

    images: jax.Array
    labels: jax.Array
    class_weights: jax.Array | None = None


def training_images(train: Split, config: ConfigDict) -> Split:
    """Returns the images that batches are made of: `train`, followed by what `config.data` adds.

    Raises:
        UserError: a number of images is out of range.
    """
    return datasets.extend_training(train, config.data, with_mattes=config.augment.background > 0)


def put_on_devices(split: Split, mesh: Mesh, class_weights: np.ndarray | None = None) -> DeviceSplit:
    """Copies `split` to every device of `mesh`, and the weights of its classes if it has any."""
    images = split.images
    if split.mattes is not None:
        images = np.concatenate([images, split.mattes[..., None]], axis=-1)
    return DeviceSplit(*jax.device_put((images, split.labels, class_weights), replicated(mesh)))


def abstract_split(
    train: Split, config: ConfigDict, mesh: Mesh, class_weights: np.ndarray | None = None
) -> DeviceSplit:
    """Returns the shapes of what `put_on_devices` makes of `training_images`, before any hand is drawn."""
    count = len(train.labels) + config.data.rendered_size
    channels = 4 if config.augment.background > 0 else 3

    def abstract(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))

    return DeviceSplit(
        abstract((count, *train.images.shape[1:3], channels), train.images.dtype),
        abstract((count,), train.labels.dtype),
        None if class_weights is None else abstract(class_weights.shape, class_weights.dtype),
    )


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Returns the number of full batches in an epoch. The next epoch permutes all images again.

    Raises:
        UserError: the batch is larger than the data set.
    """
    if batch_size > len(split.labels):
        raise UserError(
            f"config.batch_size={batch_size}: larger than the {len(split.labels)} training images;"
            " expected at most that many"
        )
    return len(split.labels) // batch_size


def epoch_permutation(seed: Seed, epoch: int | jax.Array, size: int) -> jax.Array:
    """Returns the order in which the images of an epoch are visited, int32 [size].

    It depends on `seed` and `epoch` alone.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), epoch)
    return jax.random.permutation(key, size)


def make_epoch_order(
    labels: np.ndarray, sampling: Literal["shuffle", "balanced"]
) -> Callable[[Seed, int | jax.Array], jax.Array]:
    """Returns the function of seed and epoch that gives the order of the images, int32 [N].

    `shuffle` visits every image of `labels` [N] once. `balanced` visits every class equally often. It goes
    through the images of each class in random order, again from the first one where the class is small. So
    an epoch leaves out images of large classes, and has as many steps as with `shuffle`.
    """
    if sampling == "shuffle":
        return partial(epoch_permutation, size=len(labels))
    _, indices, counts = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    turn, of_class = np.divmod(np.arange(len(labels)), len(counts))
    places = starts[of_class] + turn % counts[of_class]

    def balanced_order(seed: Seed, epoch: int | jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), epoch)
        member_key, order_key = jax.random.split(key)
        draws = jax.random.bits(member_key, indices.shape)
        members = jnp.lexsort((draws, jnp.asarray(indices)))
        return jax.random.permutation(order_key, members[places].astype(jnp.int32))

    return balanced_order


def step_keys(seed: Seed, step: int | np.integer | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the random keys of a step: one for its added images and one for its augmentation.

    With the same key, both would depend on the same random numbers.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)
    batch_key, augment_key = jax.random.split(key)
    return batch_key, augment_key


def training_batch(
    split: DeviceSplit,
    permutation: jax.Array,
    index: int | jax.Array,
    key: jax.Array,
    *,
    config: ConfigDict,
    mesh: Mesh,
    progress: float | jax.Array = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Returns batch `index` of an epoch: uint8 images [batch, H, W, C] and labels [batch], split over `mesh`.

    The images of `split` beyond those that `permutation` orders are added ones. They replace a share of the
    batch, drawn by `key`. That share moves from `config.data.rendered_share_at_start` to
    `config.data.rendered_share` with `progress`, the share of the training that is done.
    """
    batch_size = config.batch_size
    chosen = lax.dynamic_slice(permutation, (index * batch_size,), (batch_size,))
    if len(split.labels) > len(permutation):
        replaced_key, which_key = jax.random.split(key)
        start = config.data.rendered_share_at_start
        share = start + grown(config.data.rendered_share - start, progress, config.augment.ramp)
        is_replaced = jax.random.bernoulli(replaced_key, share, (batch_size,))
        added = jax.random.randint(which_key, (batch_size,), len(permutation), len(split.labels))
        chosen = jnp.where(is_replaced, added, chosen)
    chosen = lax.with_sharding_constraint(chosen, by_batch(mesh))
    return split.images[chosen], split.labels[chosen]


def first_training_batch(split: Split, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first batch, augmented as at the end of training: images uint8 [N, H, W, 3] and labels [N].

    For several seeds it is the first batch of the first seed.

    Raises:
        UserError: the batch is larger than the split, or does not divide over the devices.
    """
    steps_per_epoch(split, config.batch_size)
    mesh = make_mesh(config.batch_size)
    seed = np.uint32(config.seeds[0] if config.seeds else config.seed)
    size = config.data.image_size if config.data.store_size else None
    order_of, split = make_epoch_order(split.labels, config.data.sampling), training_images(split, config)

    @jax.jit
    def batch(device_split: DeviceSplit) -> tuple[jax.Array, jax.Array]:
        batch_key, augment_key = step_keys(seed, 0)
        images, labels = training_batch(
            device_split, order_of(seed, 0), 0, batch_key, config=config, mesh=mesh
        )
        images = augment(augment_key, images, config.augment, size=size)
        targets = jnp.zeros((len(labels), 1))  # Labels are those of the images that have the larger share.
        return mix(augment_key, images, targets, config.augment)[0], labels

    images, labels = batch(put_on_devices(split, mesh))
    return np.asarray(images).round().astype(np.uint8), np.asarray(labels)


def evaluation_batches(images: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns `images` [N, H, W, C] as [batches, batch, H, W, C], with zeros at the end of the last batch."""
    count = -(-len(images) // batch_size)
    padded = np.zeros((count * batch_size, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    return padded.reshape(count, batch_size, *images.shape[1:])
