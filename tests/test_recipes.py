"""Recipes reach the training step: each field alone changes what a step does, in the way that it says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from PIL import Image

from datasets.types import Split
from devices.mesh import make_mesh
from input_pipeline import make_epoch_order, put_on_devices
from resnet.architecture import Architecture
from resnet.network import Weights
from tests.runs import small_config, without_augmentation
from train import TrainState, init_state, make_run_steps, make_train_step
from training.loss import class_weights
from training.optimizer import make_optimizer

CLASSES, COUNT = 3, 24
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), (14, 7, 3))
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
RATE = 0.1


class Linear:
    """Stands in for a `Network`, which takes longer to compile: a linear map of the means of 4x4 blocks."""

    num_classes = CLASSES
    architecture = Architecture()

    def init(self) -> Weights:
        """Returns the weights, the same each time."""
        kernel = np.random.default_rng(1).standard_normal((4 * 4 * 3, CLASSES), np.float32)
        return Weights({"head": {"kernel": kernel}}, {"mean": np.zeros(3, np.float32)})

    def apply(
        self, weights: Weights, images: jax.Array, train: bool, key: jax.Array
    ) -> tuple[Any, dict, dict]:
        """Returns logits, no features, and as statistics the mean colour of the batch."""
        assert train
        n, side = len(images), images.shape[1] // 4
        blocks = images.astype(jnp.float32).reshape(n, 4, side, 4, side, 3).mean((2, 4)) / 255
        logits = blocks.reshape(len(images), -1) @ weights.params["head"]["kernel"]
        return logits, {}, {"mean": images.mean((0, 1, 2))}


def config_of(**fields: Any) -> ConfigDict:
    small = {"data.image_size": 32, "batch_size": 8, "steps_per_call": 3}
    config = without_augmentation(small_config(**small))
    config.optimizer.update(name="sgd", momentum=0.0, weight_decay=0.0)
    config.label_smoothing, config.ema_decay = 0.0, 0.95
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def initial_state(config: ConfigDict) -> tuple[optax.GradientTransformation, TrainState]:
    optimizer = make_optimizer(
        config.optimizer, config.finetune, Linear.architecture, optax.constant_schedule(RATE)
    )
    return optimizer, init_state(Linear().init(), optimizer, with_average=True)


def losses_of(**fields: Any) -> np.ndarray:
    """Returns the losses of the three steps of an epoch on images of three classes, 14, 7 and 3 of them."""
    config = config_of(**fields)
    optimizer, state = initial_state(config)
    mesh = make_mesh(8)
    split = put_on_devices(
        Split(IMAGES, LABELS), mesh, class_weights(LABELS, CLASSES, config.loss.class_weights)
    )
    order = make_epoch_order(LABELS, config.data.sampling)(np.uint32(0), 0)
    run_steps = make_run_steps(Linear(), optimizer, optax.constant_schedule(RATE), config=config, mesh=mesh)
    _, history = run_steps(state, split, order, np.uint32(0), 3)
    return np.asarray(history["loss"])


@pytest.fixture(scope="module")
def plain_losses() -> np.ndarray:
    return losses_of()


@pytest.mark.parametrize(
    "field",
    [
        {"loss__name": "sigmoid"},
        {"loss__class_weights": "balanced"},
        {"data__sampling": "balanced"},
        {"augment__mixup": 1.0},
        {"augment__cutmix": 1.0},
        {"augment__pad": 4},
        {"augment__resized_crop": 0.3},
        {"augment__erasing": 1.0},
        {"augment__policy": "trivial"},
        {"label_smoothing": 0.2},
    ],
    ids=lambda field: next(iter(field)),
)
def test_every_recipe_changes_the_first_loss(field: dict[str, Any], plain_losses: np.ndarray) -> None:
    losses = losses_of(**field)
    assert np.isfinite(losses).all()
    assert abs(losses[0] - plain_losses[0]) > 1e-4


def test_accumulated_batches_move_nothing_but_the_statistics_until_the_update() -> None:
    config = config_of(optimizer__accumulate=2)
    optimizer, state = initial_state(config)
    step = jax.jit(make_train_step(Linear(), optimizer, config))
    first, _ = step(state, IMAGES[:8], LABELS[:8], jax.random.key(0))
    second, _ = step(first, IMAGES[8:16], LABELS[8:16], jax.random.key(1))

    def same(a: Any, b: Any) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert same(first.params, state.params)
    assert same(first.ema, state.ema)
    assert not same(first.batch_stats, state.batch_stats)
    assert not same(second.params, state.params)
    # The average is shorter at first: after one update it is a tenth of the old and nine of the new weights.
    new = Weights(second.params, second.batch_stats)
    expected = jax.tree.map(lambda old, value: old + 0.9 * (value - old), state.ema, new)
    for average, value in zip(jax.tree.leaves(second.ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-6)


def test_images_are_smaller_early_in_training() -> None:
    """Against Pillow, whose bilinear filter also covers every pixel where it shrinks."""
    config = config_of()
    optimizer, state = initial_state(config)
    plain_step = jax.jit(make_train_step(Linear(), optimizer, config))
    images, labels, key = IMAGES[:8], LABELS[:8], jax.random.key(0)
    channels = [Image.fromarray(plane) for plane in np.moveaxis(images, -1, 1).reshape(-1, 32, 32) * 1.0]
    shrunk = np.stack([channel.resize((12, 12), Image.Resampling.BILINEAR) for channel in channels])
    smaller = np.moveaxis(shrunk.reshape(8, 3, 12, 12), 1, -1)
    losses = []
    for size, expected in ((12, smaller), (32, images)):
        step = jax.jit(make_train_step(Linear(), optimizer, config, image_size=size))
        found, metrics = step(state, images, labels, key)
        wanted, _ = plain_step(state, expected, labels, key)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        losses.append(metrics["loss"])
    assert abs(losses[0] - losses[1]) > 1e-4
