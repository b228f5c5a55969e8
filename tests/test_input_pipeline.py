"""Order and batches: what an epoch shows of each image."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import datasets
from configs import default
from datasets.lazy_images import LazyImages
from datasets.types import Split
from devices.mesh import make_mesh
from input_pipeline import (
    BatchSource,
    DeviceSplit,
    OnDevices,
    Streamed,
    batches_of_call,
    epoch_permutation,
    evaluation_batches,
    first_training_batch,
    make_epoch_order,
    place,
    put_on_devices,
    step_keys,
    steps_of_call,
    steps_per_epoch,
    training_batch,
    training_images,
)
from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.network import Weights
from tests.runs import NO_RESAMPLING, small_config, without_augmentation
from tests.training.seeds_on_devices import Linear
from train import init_state, make_run_steps
from training.augment import augment
from training.optimizer import learning_rate_schedule, make_optimizer


def numbered_split(count: int) -> Split:
    """Images whose every pixel is their number, with labels that are ten times that."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()
    return Split(images, 10 * np.arange(count, dtype=np.int32))


def of_batches(
    batch_size: int, rendered_share: float = 0.0, ramp: float = 0.0, at_start: float = 0.0
) -> ConfigDict:
    config = default.get_config()
    config.batch_size, config.data.rendered_share, config.augment.ramp = batch_size, rendered_share, ramp
    config.data.rendered_share_at_start = at_start
    return config


def test_permutations_depend_on_seed_and_epoch_alone() -> None:
    orders = {(s, e): np.asarray(epoch_permutation(s, e, 50)) for s in (0, 1) for e in (0, 1, 2)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    np.testing.assert_array_equal(epoch_permutation(1, 2, 50), orders[1, 2])
    np.testing.assert_array_equal(jax.jit(epoch_permutation, static_argnums=2)(1, 2, 50), orders[1, 2])


def test_balanced_epochs_show_every_class_equally_often() -> None:
    labels = np.repeat(np.array([7, 0, 3], np.int32), (40, 2, 18))  # 60 images, in no order of classes
    order = make_epoch_order(labels, "balanced")
    epochs = [np.asarray(order(5, epoch)) for epoch in range(3)]
    for epoch in epochs:
        shown = labels[epoch]
        assert np.unique(shown, return_counts=True)[1].tolist() == [20, 20, 20]
        # A class that is large enough is shown without repetition, a small one again and again.
        assert len(set(epoch[shown == 7])) == 20
        assert len(set(epoch[shown == 3])) == 18
        assert set(epoch[shown == 0]) == {40, 41}
        gaps = np.diff(np.flatnonzero(shown == 0))
        assert gaps.min() < 3 < gaps.max()  # the classes do not take turns
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert not np.array_equal(order(6, 0), epochs[0])
    np.testing.assert_array_equal(jax.jit(order)(np.uint32(5), 0), epochs[0])


def test_shuffled_epochs_are_permutations() -> None:
    order = make_epoch_order(np.zeros(50, np.int32), "shuffle")
    np.testing.assert_array_equal(order(1, 2), epoch_permutation(1, 2, 50))


def test_draws_differ_from_those_of_the_order_between_seeds_and_between_steps() -> None:
    keys = [key for seed in (0, 1) for step in (0, 1) for key in step_keys(seed, step)]
    keys += [jax.random.key(seed) for seed in (0, 1)]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 10


def test_an_epoch_shows_each_image_once_and_drops_the_remainder_alone() -> None:
    split, batch_size = numbered_split(23), 5
    mesh = make_mesh(batch_size)
    device_split = put_on_devices(split, mesh)
    permutation = epoch_permutation(3, 0, 23)
    batch = jax.jit(partial(training_batch, config=of_batches(batch_size), mesh=mesh))
    steps = steps_per_epoch(split, batch_size)
    assert steps == 4
    seen = []
    for index in range(steps):
        images, labels = batch(device_split, permutation, index, jax.random.key(index))
        assert images.shape == (5, 4, 4, 3)
        assert images.dtype == jnp.uint8
        numbers = np.asarray(images)[:, 0, 0, 0]
        np.testing.assert_array_equal(images, split.images[numbers])
        np.testing.assert_array_equal(labels, split.labels[numbers])
        seen.extend(numbers)
    np.testing.assert_array_equal(seen, permutation[:20])


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        ({"rendered_share": 0.6, "ramp": 0.5}, {0.0: 0.0, 0.25: 0.3, 0.5: 0.6, 1.0: 0.6}),
        ({"rendered_share": 0.2, "ramp": 0.5, "at_start": 1.0}, {0.0: 1.0, 0.25: 0.6, 0.5: 0.2, 1.0: 0.2}),
    ],
)
def test_added_images_take_the_places_of_a_share_of_the_batch_that_moves(
    config: dict[str, float], shares: dict[float, float]
) -> None:
    split = numbered_split(200)
    mesh, permutation = make_mesh(50), np.arange(50)
    batch = jax.jit(partial(training_batch, config=of_batches(50, **config), mesh=mesh))
    device_split = put_on_devices(split, mesh)
    every_added = set()
    for progress, share in shares.items():
        added = []
        for seed in range(8):
            images, labels = batch(device_split, permutation, 0, jax.random.key(seed), progress=progress)
            numbers = np.asarray(images)[:, 0, 0, 0]
            np.testing.assert_array_equal(labels, split.labels[numbers])
            kept = numbers < 50
            np.testing.assert_array_equal(numbers[kept], np.flatnonzero(kept))
            added.extend(numbers[~kept])
        assert abs(len(added) / 400 - share) <= 4 * np.sqrt(share * (1 - share) / 400)
        every_added.update(added)
    assert len(every_added) > 100


def test_added_images_are_augmented_like_the_others() -> None:
    batch_size = 128
    ramp = np.broadcast_to(np.linspace(0, 255, 16, dtype=np.uint8)[:, None, None], (16, 16, 3))
    own = np.arange(2 * batch_size) < batch_size
    split = Split(np.stack([ramp] * len(own)), own.astype(np.int32))
    config = of_batches(batch_size, rendered_share=0.5, at_start=0.5)
    without_augmentation(config).augment.rotation = 20.0
    mesh = make_mesh(batch_size)

    @jax.jit
    def augmented_batch(split: DeviceSplit) -> tuple[jax.Array, jax.Array]:
        batch_key, augment_key = step_keys(0, 0)
        images, labels = training_batch(split, np.arange(batch_size), 0, batch_key, config=config, mesh=mesh)
        return augment(augment_key, images, config.augment), labels

    images, is_own = map(np.asarray, augmented_batch(put_on_devices(split, mesh)))
    turned_left = images[:, 8, 0, 0] < images[:, 8, -1, 0]
    for kind in (0, 1):
        assert 0.25 < turned_left[is_own == kind].mean() < 0.75


def test_mattes_are_a_fourth_channel() -> None:
    split = numbered_split(5)._replace(mattes=np.full((5, 4, 4), 7, np.uint8))
    images = np.asarray(put_on_devices(split, make_mesh(5)).images)
    np.testing.assert_array_equal(images[..., :3], split.images)
    assert (images[..., 3] == 7).all()


@pytest.mark.parametrize("background", [0.0, 0.5])
@pytest.mark.parametrize("hands", [0, 5])
def test_the_shapes_on_the_devices_are_known_before_hands_are_drawn(background: float, hands: int) -> None:
    config = small_config(**{"augment.background": background, "data.rendered_size": hands})
    labels, balance = np.arange(4, dtype=np.int32), np.ones(6, np.float32)
    train = Split(np.zeros((4, 32, 32, 3), np.uint8), labels)
    mesh = make_mesh(jax.local_device_count())
    expected = put_on_devices(training_images(train, config), mesh, balance)
    shapes = OnDevices(train, config, mesh, balance).abstract()
    for shape, array in zip(shapes, expected, strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (array.shape, array.dtype, array.sharding)


# Streaming


def streamed_config(**fields: object) -> ConfigDict:
    """Returns a training of three epochs in batches of four, some of them hands, two steps a call."""
    return small_config(
        **{
            "num_epochs": 3,
            "batch_size": 4,
            "steps_per_call": 2,
            "data.placement": "stream",
            "data.rendered_size": 5,
            "data.rendered_share": 0.2,
            "data.rendered_share_at_start": 0.8,
            "augment.ramp": 0.7,
        }
        | fields
    )


def split_with_hands(count: int = 11, size: int = 32) -> Split:
    """Images of numbers as `numbered_split`, of a size in which hands can be drawn."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3))
    return Split(images.copy(), np.arange(count, dtype=np.int32) % 6)


def lazy(split: Split) -> Split:
    images = split.images
    return split._replace(images=LazyImages(images.__getitem__, np.arange(len(images)), images.shape[1]))


def seen_by_steps(
    data: OnDevices | Streamed, config: ConfigDict, count: int, first: int = 0
) -> list[np.ndarray]:
    """Returns the pixels and labels of every step that a training on `data` sees after step `first`."""
    mesh = make_mesh(config.batch_size)
    gather = jax.jit(partial(batches_of_call, config=config, mesh=mesh))
    per_epoch = count // config.batch_size
    seen: list[np.ndarray] = []
    data.start(config.seed, first)
    while (step := first + len(seen)) < config.num_epochs * per_epoch:
        permutation = epoch_permutation(config.seed, step // per_epoch, count)
        batches = gather(data.batches(step), permutation, np.int32(step), np.uint32(config.seed))
        for i in range(steps_of_call(step, per_epoch, config)):
            seen.append(
                np.concatenate([np.asarray(batches.images[i]).ravel(), np.asarray(batches.labels[i])])
            )
    data.close()
    return seen


@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_stream_shows_every_step_the_same_images_as_the_device(is_lazy: bool) -> None:
    config, split = streamed_config(), split_with_hands()
    mesh = make_mesh(config.batch_size)
    expected = seen_by_steps(OnDevices(split, config, mesh), config, 11)
    assert len({tuple(images) for images in expected}) == 6
    stream = Streamed(lazy(split) if is_lazy else split, config, mesh)
    np.testing.assert_array_equal(seen_by_steps(stream, config, 11), expected)
    # It can begin anywhere, and again from the front.
    np.testing.assert_array_equal(seen_by_steps(stream, config, 11, first=3), expected[3:])
    np.testing.assert_array_equal(seen_by_steps(stream, config, 11), expected)


def test_a_stream_trains_to_the_same_bits_as_the_device() -> None:
    config, split = streamed_config(**NO_RESAMPLING), split_with_hands()
    schedule = learning_rate_schedule(config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=2)
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), schedule)
    mesh = make_mesh(config.batch_size)
    run_steps = make_run_steps(Linear(), optimizer, schedule, config=config, mesh=mesh)
    ends = []
    for data in (OnDevices(split, config, mesh), Streamed(split, config, mesh)):
        state = init_state(Linear().init(1), optimizer, with_average=True)
        data.start(config.seed, 0)
        for step in range(0, 6, 2):
            permutation = epoch_permutation(config.seed, step // 2, 11)
            state, _ = run_steps(state, data.batches(step), permutation, np.uint32(config.seed), 2)
        data.close()
        ends.append(state)
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_balanced_batches_are_streamed_in_their_order() -> None:
    split = split_with_hands()
    config = streamed_config(**{"data.sampling": "balanced", "data.rendered_size": 0})
    source = BatchSource(split, split.labels, config, seed=7, first_step=1)
    order = make_epoch_order(split.labels, "balanced")(7, 0)
    images, labels = source[0]
    np.testing.assert_array_equal(images, split.images[order[4:8]])
    np.testing.assert_array_equal(labels, split.labels[order[4:8]])
    assert len(source) == 5


def test_threads_may_load_batches_of_several_epochs_at_a_time() -> None:
    split = split_with_hands()
    config = streamed_config(batch_size=11, num_epochs=60, **{"data.rendered_size": 0})
    source = BatchSource(split, split.labels, config, seed=0, first_step=0)
    with ThreadPoolExecutor(8) as threads:
        orders = list(threads.map(source.indices, [epoch % 3 for epoch in range(600)]))
    expected = [epoch_permutation(0, epoch, 11) for epoch in range(3)] * 200
    np.testing.assert_array_equal(orders, expected)


def test_a_stream_has_the_shapes_that_are_known_before_and_the_mattes() -> None:
    config = streamed_config(**{"augment.background": 0.5})
    balance = np.ones(6, np.float32)
    stream = Streamed(split_with_hands(), config, make_mesh(config.batch_size), balance)
    stream.start(0, 0)
    batches = stream.batches(0)
    for shape, array in zip(stream.abstract(), batches, strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (array.shape, array.dtype, array.sharding)
    assert batches.images.shape == (2, 4, 32, 32, 4)
    stream.close()


def test_what_is_wrong_with_a_streamed_image_ends_the_training() -> None:
    def load(place: int) -> np.ndarray:
        raise UserError(f"{place}.png: has gone")

    split = split_with_hands()._replace(images=LazyImages(load, np.arange(11), 32))
    stream = Streamed(split, streamed_config(), make_mesh(4))
    stream.start(0, 0)
    with pytest.raises(UserError, match=r"\.png: has gone$"):
        stream.batches(0)
    stream.close()


@pytest.mark.parametrize(
    ("placement", "memory", "is_streamed"),
    [("auto", 10**6, False), ("auto", 10**5, True), ("stream", 10**6, True), ("device", 10**5, False)],
)
def test_images_are_streamed_when_they_take_too_much_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    placement: str,
    memory: int,
    is_streamed: bool,
) -> None:
    monkeypatch.setattr("input_pipeline.device_memory", lambda: memory)
    config = streamed_config(**{"data.placement": placement})
    data = place(split_with_hands(), config, make_mesh(4))  # 49,152 bytes with the hands
    assert data.is_streamed == is_streamed
    line = "data.placement=auto: streams 0.0 GB of training images, and the device has 0.0 GB\n"
    assert capfd.readouterr().err == (line if is_streamed and placement == "auto" else "")


def test_lazy_images_are_always_streamed(capfd: pytest.CaptureFixture[str]) -> None:
    config = streamed_config(**{"data.placement": "auto"})
    assert place(lazy(split_with_hands()), config, make_mesh(4)).is_streamed


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("input_pipeline.device_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"^config\.data\.placement=device: there are 0\.0 GB of training"):
        place(split_with_hands(), streamed_config(**{"data.placement": "device"}), make_mesh(4))
    with pytest.raises(UserError, match=r"^config\.seeds_together: would stream .* set it to no"):
        place(split_with_hands(), streamed_config(), make_mesh(4, replicas=2))
    with pytest.raises(UserError, match=r"^config\.augment\.background: needs the mattes"):
        training_images(lazy(split_with_hands()), streamed_config(**{"augment.background": 0.5}))


def test_steps_per_epoch_needs_a_full_batch() -> None:
    assert steps_per_epoch(numbered_split(7), 7) == 1
    with pytest.raises(
        UserError, match=r"^config\.batch_size=8: larger than the 7 training images; expected at most"
    ):
        steps_per_epoch(numbered_split(7), 8)


@pytest.mark.parametrize(("count", "shape"), [(7, (3, 3)), (6, (2, 3)), (2, (1, 3)), (0, (0, 3))])
def test_evaluation_batches_hold_every_image_once(count: int, shape: tuple[int, int]) -> None:
    images = numbered_split(count).images + 1
    batches = np.array([*evaluation_batches(images, 3)], np.uint8).reshape(*shape, 4, 4, 3)
    flat = batches.reshape(-1, 4, 4, 3)
    np.testing.assert_array_equal(flat[:count], images)
    assert not flat[count:].any()


@pytest.mark.parametrize("size", [32, 64, 96])
def test_images_are_resized_to_the_size_of_the_config(shared_signs_dir: Path, size: int) -> None:
    config = small_config(**{"data.dir": str(shared_signs_dir), "data.image_size": size})
    dataset = datasets.load(config.data)
    assert dataset.train.images.shape == (60, size, size, 3)
    assert dataset.test.images.shape == (12, size, size, 3)
    images = put_on_devices(training_images(dataset.train, config), make_mesh(config.batch_size)).images
    assert images.shape == (60, size, size, 3)
    # The bright block that shows the class is still brighter than the noise around it.
    assert dataset.train.images.max((1, 2, 3)).min() > 160
    assert dataset.train.images.min() < 100


class SpyNetwork:
    """Stands in for a `Network`, and keeps the images that it is trained on."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.num_classes = 6

    def init(self, seed: int) -> Weights:
        return Weights({"head": {"kernel": np.ones((3, 6), np.float32)}}, {})

    def apply(
        self, weights: Weights, images: jax.Array, train: bool, key: jax.Array
    ) -> tuple[jax.Array, dict, dict]:
        jax.debug.callback(lambda pixels: self.seen.append(np.asarray(pixels)), images)
        return images.mean(axis=(1, 2)) @ weights.params["head"]["kernel"], {}, {}


def test_first_training_batch_is_what_the_first_step_sees(shared_signs_dir: Path) -> None:
    # The draws that are left come from the same key as the resampling.
    fields = {"seed": 5, "data.dir": str(shared_signs_dir), "augment.cutout": 0.2}
    config = small_config(batch_size=16, **fields, **NO_RESAMPLING)
    train = datasets.load(config.data).train
    images, labels = first_training_batch(train, config)

    network, mesh = SpyNetwork(), make_mesh(config.batch_size)
    steps = len(train.labels) // 16
    schedule = learning_rate_schedule(config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=steps)
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
    permutation = epoch_permutation(np.uint32(config.seed), 0, len(train.labels))
    state = init_state(network.init(config.seed), optimizer, with_average=True)
    jax.block_until_ready(
        run_steps(state, put_on_devices(train, mesh), permutation, np.uint32(config.seed), 1)
    )
    jax.effects_barrier()

    assert len(network.seen) == 1
    np.testing.assert_allclose(images, network.seen[0], atol=0.51)  # rounded to whole levels
    np.testing.assert_array_equal(labels, train.labels[np.asarray(permutation[:16])])
