"""Packed weights train like weights in a tree, with every optimizer that allows it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from datasets.types import Split
from devices.mesh import make_mesh
from input_pipeline import put_on_devices
from resnet.architecture import Architecture
from resnet.network import Weights
from tests.runs import NO_RESAMPLING, small_config
from train import TrainState, init_state, make_run_steps
from training.network import make_network
from training.optimizer import can_be_packed, learning_rate_schedule, make_optimizer
from training.packing import KERNELS_IN_AN_ARRAY, Packing

BATCH = 4


class TwoLayers:
    """A small network that compiles at once: a layer, a running mean of what it gives, and the head."""

    num_classes = 6
    architecture = Architecture()

    @staticmethod
    def init() -> Weights:
        """Returns weights of fixed random numbers."""
        rng = np.random.default_rng(0)

        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, np.float32)

        params = {
            "layer": {"kernel": draw(3, 5), "bias": draw(5)},
            "head": {"kernel": draw(5, 6), "bias": draw(6)},
        }
        return Weights(params, {"norm": {"mean": draw(5)}})

    @staticmethod
    def apply(
        weights: Weights, images: jax.Array, train: bool, key: jax.Array
    ) -> tuple[jax.Array, dict, dict]:
        """Returns logits, no features and the new running mean."""
        layer, head = weights.params["layer"], weights.params["head"]
        y = jnp.tanh(images.mean((1, 2)) / 255 @ layer["kernel"] + layer["bias"])
        mean = 0.9 * weights.batch_stats["norm"]["mean"] + 0.1 * y.mean(0)
        return (y - mean) @ head["kernel"] + head["bias"], {}, {"norm": {"mean": mean}}


def test_what_is_packed_comes_back() -> None:
    weights = make_network(small_config(), 6).init(0)
    moments = jax.tree.map(lambda leaf: leaf + 1, weights.params)
    tree = {"count": np.int32(3), "state": (weights, [moments])}
    packing = Packing(weights)
    packed = packing.pack(tree)
    packed_moments = packed["state"][1][0]
    sizes = {name: leaf.size for name, leaf in weights.named().items()}
    kernels = [sizes[name] for name in sizes if name.endswith("kernel")]
    arrays = [part["kernel"].size for part in packed_moments.values()]
    assert arrays == [
        sum(kernels[i : i + KERNELS_IN_AN_ARRAY]) for i in range(0, len(kernels), KERNELS_IN_AN_ARRAY)
    ]
    assert packed_moments[0]["other"].size + sum(arrays) == sum(
        leaf.size for leaf in jax.tree.leaves(weights.params)
    )
    assert len(jax.tree.leaves(packed)) == 1 + 2 * (len(arrays) + 1) + 1
    jax.tree.map(np.testing.assert_array_equal, packing.unpack(packed), tree)


def state_after_steps(*, packed: bool, **fields: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    config = small_config(batch_size=BATCH, steps_per_call=3, ema_decay=0.9, **NO_RESAMPLING, **fields)
    network, mesh = TwoLayers(), make_mesh(BATCH)
    schedule = learning_rate_schedule(config.optimizer, num_epochs=2, steps_per_epoch=3)
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh, packed=packed)
    images = np.random.default_rng(0).integers(0, 256, (3 * BATCH, 8, 8, 3), np.uint8)
    split = put_on_devices(Split(images, np.arange(3 * BATCH, dtype=np.int32) % 6), mesh)
    state = init_state(network.init(), optimizer, with_average=True)
    return run_steps(state, split, np.arange(3 * BATCH), np.uint32(0), 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer.name": "adamw", "optimizer.clip_norm": 0.5},
        {"optimizer.name": "sgd", "optimizer.weight_decay": 0.1},
        {"optimizer.name": "lion", "optimizer.accumulate": 2, "optimizer.weight_decay": 0.1},
    ],
    ids=lambda fields: fields["optimizer.name"],
)
def test_packed_weights_train_alike(fields: dict[str, Any]) -> None:
    config = small_config(**fields)
    assert can_be_packed(config.optimizer, config.finetune)
    tree, packed = (state_after_steps(packed=packed, **fields) for packed in (False, True))
    assert jax.tree.structure(tree) == jax.tree.structure(packed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), tree, packed)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer.name": "lamb"},
        {"optimizer.name": "muon"},
        {"finetune.frozen": 1},
        {"finetune.freeze_norm": True},
        {"finetune.layer_decay": 0.5},
    ],
    ids=str,
)
def test_what_looks_at_layers_is_not_packed(fields: dict[str, Any]) -> None:
    config = small_config(**fields)
    assert not can_be_packed(config.optimizer, config.finetune)
