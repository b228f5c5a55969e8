"""Seeds that are trained at once on several devices end where each does alone.

A program of its own, as the number of devices is fixed when JAX starts; `test_seeds.py` runs it on four.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from datasets.types import Split
from devices.mesh import by_replica, make_mesh, stack_states, unstack_states
from input_pipeline import DeviceSplit, epoch_permutation, put_on_devices
from resnet.architecture import Architecture
from resnet.network import Weights
from tests.runs import NO_RESAMPLING, small_config
from train import TrainState, init_state, make_run_steps
from training.optimizer import learning_rate_schedule, make_optimizer

STEPS = 3


class Linear:
    """Stands in for a `Network`: a linear map of the mean colour."""

    num_classes = 6

    def init(self, seed: int) -> Weights:
        """Returns the weights that `seed` draws."""
        kernel = np.random.default_rng(seed).standard_normal((3, 6), np.float32)
        return Weights({"head": {"kernel": kernel}}, {})

    def apply(
        self, weights: Weights, images: jax.Array, train: bool, key: jax.Array
    ) -> tuple[jax.Array, dict, dict]:
        """Returns logits, no features and no statistics."""
        return images.mean((1, 2)) / 255 @ weights.params["head"]["kernel"], {}, {}


def train(seeds: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray, TrainState]:
    """Trains `seeds` at once; returns their averaged kernels, their losses [seeds, steps] and the state."""
    mesh, count = make_mesh(8, len(seeds)), len(seeds)
    config = small_config(batch_size=8, steps_per_call=STEPS, **NO_RESAMPLING)
    schedule = learning_rate_schedule(config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=STEPS)
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), schedule)
    run_steps = make_run_steps(Linear(), optimizer, schedule, config=config, mesh=mesh)
    initial = [init_state(Linear().init(seed), optimizer, with_average=True) for seed in seeds]
    orders = np.stack([epoch_permutation(np.uint32(seed), 0, 24) for seed in seeds])
    numbers = np.array(seeds, np.uint32)
    if count == 1:
        orders, numbers = orders[0], numbers[0]
    orders = jax.device_put(orders, by_replica(mesh))
    state, history = run_steps(stack_states(initial, mesh), split_on(mesh), orders, numbers, STEPS)
    averages = unstack_states(state.ema.params, count, mesh)
    kernels = [np.asarray(average["head"]["kernel"]) for average in averages]
    return kernels, np.asarray(history["loss"]).reshape(count, -1), state


def split_on(mesh: Mesh) -> DeviceSplit:
    """Puts 24 images of noise on the devices."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    return put_on_devices(Split(images, np.arange(24, dtype=np.int32) % 6), mesh)


def main() -> None:
    """Asserts that two seeds on four devices, two devices for each, end where each does on all four."""
    assert dict(make_mesh(8, 2).shape) == {"replica": 2, "batch": 2}
    assert dict(make_mesh(8, 3).shape) == {"replica": 1, "batch": 4}
    kernels, losses, state = train([4, 1])
    shards = state.params["head"]["kernel"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(1, 3, 6)}, "a device holds its own seed alone"
    for i, seed in enumerate([4, 1]):
        (kernel,), loss, _ = train([seed])
        np.testing.assert_allclose(kernels[i], kernel, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(losses[i], loss[0], rtol=1e-5)
    assert abs(losses[0] - losses[1]).max() > 1e-3


if __name__ == "__main__":
    main()
