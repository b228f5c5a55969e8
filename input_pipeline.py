"""From a data set to batches on the devices, as a function of seed and step.

A data set that fits lies on the devices whole, see `OnDevices`. What does not fit is loaded ahead of the
steps, see `Streamed`. `place` chooses, and the loop does not know which it has.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property, lru_cache, partial
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

import datasets
from datasets.lazy_images import Images, LazyImages
from datasets.read_ahead import read_ahead
from datasets.threads import map_in_threads
from datasets.types import Split
from devices import hosts
from devices.memory import device_memory, processor
from devices.mesh import (
    by_batch,
    by_batch_of_call,
    has_replicas,
    make_mesh,
    own_rows,
    put,
    put_own_rows,
    replicated,
)
from resnet.errors import UserError
from resnet.memory import gigabytes
from training.augment import augment, grown, size_after_crop
from training.early_size import early_steps
from training.mixing import mix

DEVICE_SHARE = 0.4  # of a device's memory, that training images may take before they are streamed

Seed = int | np.unsignedinteger | jax.Array  # uint32 [] on the devices


class DeviceSplit(NamedTuple):
    """A split that lies whole on every device: `images` uint8 [N, H, W, C] and `labels` int32 [N].

    The channels are red, green, blue and, for a split with mattes, the matte. `class_weights` float32
    [classes] weigh the loss; see `training.loss.class_weights`.
    """

    images: jax.Array
    labels: jax.Array
    class_weights: jax.Array | None = None


class CallBatches(NamedTuple):
    """The batches of one call of steps: images uint8 [steps, batch, H, W, C] and labels int32 [steps, batch].

    Shorter calls leave the last ones unused. The rest is as in `DeviceSplit`.
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
    return DeviceSplit(*put((images, split.labels, class_weights), replicated(mesh)))


def image_shape(train: Split, config: ConfigDict) -> tuple[int, int, int]:
    """Returns the shape of a stored training image: its sides and channels, with the matte if it has one."""
    return (*train.images.shape[1:3], 4 if config.augment.background > 0 else 3)


def shape_of_all(train: Split, config: ConfigDict) -> tuple[int, int, int, int]:
    """Returns the shape of all images that batches are made of, with the added ones: [N, H, W, C]."""
    return (len(train.labels) + config.data.rendered_size, *image_shape(train, config))


def _abstract(
    images: tuple[int, ...],
    labels: tuple[int, ...],
    class_weights: np.ndarray | None,
    sharding: NamedSharding,
    mesh: Mesh,
) -> tuple[Any, Any, Any]:
    """Returns the shapes, dtypes and shardings of images, labels and class weights."""
    weights = None
    if class_weights is not None:
        weights = jax.ShapeDtypeStruct(class_weights.shape, class_weights.dtype, sharding=replicated(mesh))
    return (
        jax.ShapeDtypeStruct(images, np.uint8, sharding=sharding),
        jax.ShapeDtypeStruct(labels, np.int32, sharding=sharding),
        weights,
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


def batch_indices(
    permutation: jax.Array,
    count: int,
    index: int | jax.Array,
    key: jax.Array,
    *,
    config: ConfigDict,
    progress: float | jax.Array = 1.0,
) -> jax.Array:
    """Returns which of `count` images batch `index` of an epoch shows, int32 [batch].

    The images beyond those that `permutation` orders are added ones. They replace a share of the batch, drawn
    by `key`. That share moves from `config.data.rendered_share_at_start` to `config.data.rendered_share` with
    `progress`, the share of the training that is done.
    """
    batch_size = config.batch_size
    chosen = lax.dynamic_slice(permutation, (index * batch_size,), (batch_size,))
    if count > len(permutation):
        replaced_key, which_key = jax.random.split(key)
        start = config.data.rendered_share_at_start
        share = start + grown(config.data.rendered_share - start, progress, config.augment.ramp)
        is_replaced = jax.random.bernoulli(replaced_key, share, (batch_size,))
        added = jax.random.randint(which_key, (batch_size,), len(permutation), count)
        chosen = jnp.where(is_replaced, added, chosen)
    return chosen


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

    `batch_indices` says which images they are.
    """
    chosen = batch_indices(permutation, len(split.labels), index, key, config=config, progress=progress)
    chosen = lax.with_sharding_constraint(chosen, by_batch(mesh))
    return split.images[chosen], split.labels[chosen]


def batches_of_call(
    data: DeviceSplit | CallBatches,
    permutation: jax.Array,
    step: jax.Array | np.int32,
    seed: Seed,
    *,
    config: ConfigDict,
    mesh: Mesh,
) -> CallBatches:
    """Returns the batches of the call after `step` of an epoch in the order of `permutation`.

    They are gathered once for all steps. So the steps are the same program wherever the images come from, and
    give the same bits.
    """
    if isinstance(data, CallBatches):
        return data
    per_epoch = len(permutation) // config.batch_size

    def of_step(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        return training_batch(
            data,
            permutation,
            step % per_epoch,
            step_keys(seed, step)[0],
            config=config,
            mesh=mesh,
            progress=step / (config.num_epochs * per_epoch),
        )

    images, labels = jax.vmap(of_step)(step + jnp.arange(min(config.steps_per_call, per_epoch)))
    return CallBatches(images, labels, data.class_weights)


def steps_of_call(step: int, steps_per_epoch: int, config: ConfigDict) -> int:
    """Returns how many steps the call after `step` makes.

    They are at most `config.steps_per_call`, all of one epoch and with images of one size.
    """
    most = min(config.steps_per_call, steps_per_epoch - step % steps_per_epoch)
    early = early_steps(config.num_epochs * steps_per_epoch, config)
    return min(most, early - step) if step < early else most


def first_seed(config: ConfigDict) -> int:
    """Returns the seed of a training of `config`, of several seeds the first one."""
    return config.seeds[0] if config.seeds else config.seed


def first_training_batch(split: Split, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first batch, augmented as at the end of training: images uint8 [N, H, W, 3] and labels [N].

    For several seeds it is the first batch of the first seed.

    Raises:
        UserError: the batch is larger than the split, or does not divide over the devices.
    """
    steps_per_epoch(split, config.batch_size)
    mesh = make_mesh(config.batch_size)
    seed, size = np.uint32(first_seed(config)), size_after_crop(config.data)
    permutation = make_epoch_order(split.labels, config.data.sampling)(seed, 0)
    batch_key, augment_key = step_keys(seed, 0)
    split = training_images(split, config)
    chosen = batch_indices(permutation, len(split.labels), 0, batch_key, config=config)
    stored, labels = load_images(split, np.asarray(chosen))

    @jax.jit
    def augmented(images: jax.Array, labels: jax.Array) -> jax.Array:
        images = augment(augment_key, images, config.augment, size=size)
        targets = jnp.zeros((len(labels), 1))  # Labels are those of the images that have the larger share.
        return mix(augment_key, images, targets, config.augment)[0]

    images = augmented(*put((stored, labels), by_batch(mesh)))
    return np.asarray(images).round().astype(np.uint8), labels


# Images that lie on the devices, and images that are loaded ahead


class TrainingData(Protocol):
    """The training images, wherever they lie."""

    is_streamed: bool

    def abstract(self) -> DeviceSplit | CallBatches:
        """Returns the shapes of what `batches` returns, before any image is loaded or drawn."""

    def start(self, seed: int, step: int) -> None:
        """Prepares for a training by `seed` that goes on after `step`."""

    def batches(self, step: int) -> DeviceSplit | CallBatches:
        """Returns what the steps of the call after `step` need, on the devices. Calls come in their order."""

    def close(self) -> None:
        """Ends what runs in the background."""


def is_streamed(train: Split, config: ConfigDict) -> bool:
    """Whether images are loaded ahead of the steps on this host, as `place` says."""
    placement, needed = config.data.placement, prod(shape_of_all(train, config))
    is_too_much = placement == "auto" and needed > DEVICE_SHARE * device_memory()
    return isinstance(train.images, LazyImages) or placement == "stream" or is_too_much


def place(
    train: Split, config: ConfigDict, mesh: Mesh, class_weights: np.ndarray | None = None
) -> TrainingData:
    """Returns the images that batches are made of, placed as `config.data.placement` says.

    `auto` puts them on the devices if they take at most `DEVICE_SHARE` of the memory of each, and streams
    them otherwise, which it says on stderr.

    Raises:
        UserError: they do not fit where they are to lie, or several seeds would be streamed at once.
    """
    arguments = train, config, mesh, class_weights
    needed, memory = prod(shape_of_all(train, config)), device_memory()
    placement = config.data.placement
    sizes = f"{gigabytes(needed)} of training images, and the device has {gigabytes(memory)}"
    if placement == "device" and needed > memory:
        raise UserError(
            f"config.data.placement=device: there are {sizes}; expected fewer; leave it at auto, which"
            " streams them"
        )
    # Hosts may have different memory, but run one program.
    if not hosts.largest(is_streamed(train, config)):
        return OnDevices(*arguments)
    if placement == "auto":
        print(f"data.placement=auto: streams {sizes}", file=sys.stderr, flush=True)
    if has_replicas(mesh):
        raise UserError(
            f"config.seeds_together: would stream {gigabytes(needed)} of training images for every seed;"
            " set it to no, and the seeds are trained one after the other"
        )
    return Streamed(*arguments)


class OnDevices:
    """Training images that lie whole on every device. See `TrainingData`."""

    is_streamed = False

    def __init__(
        self, train: Split, config: ConfigDict, mesh: Mesh, class_weights: np.ndarray | None = None
    ) -> None:
        """`train` has the images of the data set. `training_images` adds the rendered hands."""
        self._train, self._config, self._mesh, self._class_weights = train, config, mesh, class_weights

    def abstract(self) -> DeviceSplit:
        """Returns the shapes of the images that `batches` returns."""
        shape = shape_of_all(self._train, self._config)
        return DeviceSplit(
            *_abstract(shape, shape[:1], self._class_weights, replicated(self._mesh), self._mesh)
        )

    def start(self, seed: int, step: int) -> None:
        """Does nothing, as the images serve all seeds and steps."""

    def batches(self, step: int) -> DeviceSplit:
        """Returns all images. The first time, hands are drawn that are not in the cache."""
        return self._split

    def close(self) -> None:
        """Does nothing, as nothing runs in the background."""

    @cached_property
    def _split(self) -> DeviceSplit:
        return put_on_devices(training_images(self._train, self._config), self._mesh, self._class_weights)


class Streamed:
    """Training images that are loaded ahead of the steps, by threads or processes. See `TrainingData`.

    Grain (https://github.com/google/grain) loads the batches in their order, on each host the rows of its own
    devices alone. Those of a call go to the devices together, while the steps of the call before run.
    """

    is_streamed = True

    def __init__(
        self, train: Split, config: ConfigDict, mesh: Mesh, class_weights: np.ndarray | None = None
    ) -> None:
        """`train` has the images of the data set. `training_images` adds the rendered hands."""
        self._train, self._config, self._mesh, self._class_weights = train, config, mesh, class_weights
        self._per_epoch = steps_per_epoch(train, config.batch_size)
        self._total = self._per_epoch * config.num_epochs
        self._rows = own_rows(mesh, config.batch_size)
        self._loader: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._loading: Future[CallBatches] | None = None
        self._loaded: tuple[int, CallBatches] | None = None

    def abstract(self) -> CallBatches:
        """Returns the shapes of the batches of a call."""
        leading = (min(self._config.steps_per_call, self._per_epoch), self._config.batch_size)
        shape = (*leading, *image_shape(self._train, self._config))
        arrays = _abstract(shape, leading, self._class_weights, by_batch_of_call(self._mesh), self._mesh)
        return CallBatches(*arrays)

    def start(self, seed: int, step: int) -> None:
        """Starts to load the batches that a training by `seed` sees after `step`."""
        self.close()
        images = self._images.images
        decodes = isinstance(images, LazyImages) and images.decodes
        source = BatchSource(self._images, self._train.labels, self._config, seed, step, self._rows)
        self._loader = read_ahead(source, self._config.data.loader_processes if decodes else 0)
        self._loading = self._thread.submit(self._load, step)

    def batches(self, step: int) -> CallBatches:
        """Returns the batches of the call after `step`, and starts to load the next batches.

        Raises:
            UserError: an image cannot be loaded any more.
        """
        if self._loaded is None or self._loaded[0] != step:
            assert self._loading is not None
            self._loaded = step, self._loading.result()
            following = step + steps_of_call(step, self._per_epoch, self._config)
            self._loading = self._thread.submit(self._load, following) if following < self._total else None
        return self._loaded[1]

    def close(self) -> None:
        """Stops loading."""
        if self._loading is not None:
            self._loading.cancel()
            wait([self._loading])
        if self._loader is not None:
            self._loader.close()
        self._loader = self._loading = self._loaded = None

    @cached_property
    def _images(self) -> Split:
        return training_images(self._train, self._config)

    def _load(self, step: int) -> CallBatches:
        """Gathers the batches of the call after `step`, and puts them on the devices."""
        shapes, rows = self.abstract(), self._rows.stop - self._rows.start
        images, labels = (
            np.zeros((leaf.shape[0], rows, *leaf.shape[2:]), leaf.dtype)
            for leaf in (shapes.images, shapes.labels)
        )
        for i in range(steps_of_call(step, self._per_epoch, self._config)):
            batch = self._next_batch()
            if isinstance(batch, UserError):
                raise batch
            images[i], labels[i] = batch
        sharding = by_batch_of_call(self._mesh)
        return CallBatches(
            put_own_rows(images, sharding, shapes.images.shape),
            put_own_rows(labels, sharding, shapes.labels.shape),
            put(self._class_weights, replicated(self._mesh)),
        )

    def _next_batch(self) -> Any:
        try:
            return next(self._loader)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            processes = self._config.data.loader_processes
            raise UserError(
                f"config.data.loader_processes={processes}: one of them was killed, perhaps for lack of"
                " memory; choose fewer; the same command goes on from the last checkpoint"
            ) from error


class BatchSource:
    """The batches of a training in order, as Grain takes them: item `i` is that of step `first_step + i`.

    A batch is images uint8 [batch, H, W, C] and labels int32 [batch], or what is wrong with an image. With
    `rows`, it has these rows of each batch alone.
    """

    def __init__(
        self,
        split: Split,
        own_labels: np.ndarray,
        config: ConfigDict,
        seed: int,
        first_step: int,
        rows: slice = slice(None),
    ) -> None:
        """`split` has the images of the data set, whose labels are `own_labels`, and then the added ones."""
        self._split, self._own_labels, self._config = split, own_labels, config
        self._seed, self._first_step, self._rows = seed, first_step, rows
        self._per_epoch = len(own_labels) // config.batch_size

    def __len__(self) -> int:
        return self._per_epoch * self._config.num_epochs - self._first_step

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray] | UserError:
        try:
            return load_images(self._split, self.indices(self._first_step + item)[self._rows])
        except UserError as error:  # Exceptions of other processes arrive as text.
            return error

    def indices(self, step: int) -> np.ndarray:
        """Returns which images the batch after `step` shows, int32 [batch]."""
        epoch, index = divmod(step, self._per_epoch)
        return self._indices_of_epoch(epoch)[index]

    @cached_property
    def _indices_of_epoch(self) -> Callable[[int], np.ndarray]:
        """The function of an epoch that gives the images of all its batches, int32 [steps, batch]."""
        config, per_epoch, seed = self._config, self._per_epoch, np.uint32(self._seed)
        order_of = make_epoch_order(self._own_labels, config.data.sampling)

        @jax.jit
        def indices(epoch: jax.Array) -> jax.Array:
            permutation = order_of(seed, epoch)

            def of_step(step: jax.Array) -> jax.Array:
                return batch_indices(
                    permutation,
                    len(self._split.labels),
                    step % per_epoch,
                    step_keys(seed, step)[0],
                    config=config,
                    progress=step / (config.num_epochs * per_epoch),
                )

            return jax.vmap(of_step)(epoch * per_epoch + jnp.arange(per_epoch))

        @lru_cache(maxsize=4)  # Threads may look at several epochs at a time.
        def on_cpu(epoch: int) -> np.ndarray:
            # On an accelerator it would wait for the steps that run.
            with jax.default_device(processor()):
                return np.asarray(indices(np.int32(epoch)))

        return on_cpu

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out compiled functions, as another process compiles its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_indices_of_epoch"}


def load_images(split: Split, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loads images of `split`, with mattes if there are any, uint8 [N, H, W, C], and their labels [N]."""
    images = split.images[indices]
    if split.mattes is not None:
        images = np.concatenate([images, split.mattes[indices, ..., None]], axis=-1)
    return images, split.labels[indices]


def evaluation_batches(images: Images, batch_size: int, rows: slice | None = None) -> Iterator[np.ndarray]:
    """Yields `images` [N, H, W, C] as batches [batch, H, W, C], with zeros at the end of the last one.

    With `rows`, it yields and loads those of each batch alone. A few batches are loaded ahead.
    """
    first, last = (rows.start, rows.stop) if rows else (0, batch_size)

    def batch(start: int) -> np.ndarray:
        loaded = images[start + first : start + last]
        missing = last - first - len(loaded)
        if not missing:
            return loaded
        return np.concatenate([loaded, np.zeros((missing, *images.shape[1:]), images.dtype)])

    yield from map_in_threads(batch, range(0, len(images), batch_size))
