"""This project, as `train.py` and `evaluate.py` run it."""

import jax
import numpy as np

from benchmarks.peers import CLASSES, Case, Contestant
from configs import default
from datasets.types import Split
from input_pipeline import make_mesh, put_on_devices, replicated
from optimizer import learning_rate_schedule, make_optimizer
from resnet.network import Network
from train import init_state, make_run_steps


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant: images are uint8 on the device and normalised in the step."""
    config = default.get_config()
    config.model.depth = case.depth
    config.compute_dtype = case.dtype
    config.batch_size = case.batch
    config.steps_per_call = case.steps
    # The peers' training: Adam at a constant rate, cross-entropy, nothing else.
    config.optimizer.name = "adam"
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    for strength in config.augment:
        config.augment[strength] = 0.0

    mesh = make_mesh(case.batch)
    network = Network(config, CLASSES)
    size = case.dataset_size or case.batch
    split = put_on_devices(Split(case.images(size), case.labels(size)), mesh)
    if case.task == "train":
        schedule = learning_rate_schedule(config, 1)
        optimizer = make_optimizer(config, schedule)
        run_steps = make_run_steps(network, optimizer, schedule, config, mesh)
        state = jax.device_put(init_state(network, optimizer, config), replicated(mesh))
        parameters = _count(state.params)
        order = np.random.default_rng(0).permutation(size).astype(np.int32)
        permutation = jax.device_put(order, replicated(mesh))

        def run(steps: int) -> None:
            nonlocal state
            state, history = run_steps(state, split, permutation, np.uint32(0), steps)
            jax.block_until_ready((state, history))

    else:
        weights = jax.device_put(network.init(seed=0), replicated(mesh))
        parameters = _count(weights.params)
        arranged = jax.jit(network.arrange, static_argnums=1)(weights, split.images.shape)
        logits = jax.jit(network.predict)

        def run(steps: int) -> None:
            for _ in range(steps):
                logits(weights, arranged, split.images).block_until_ready()

    return Contestant(run, parameters, jax.devices()[0].device_kind, peak_device_memory)


def _count(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def peak_device_memory() -> int | None:
    """The most bytes that JAX's first device held at once; None on CPU."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else None
