"""This project, with the training step of `train.py` and the predictions of `evaluation`."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.peers import CLASSES, Case, Contestant
from benchmarks.program import parse_command
from configs import default
from datasets.types import Split
from devices.mesh import make_mesh, replicated
from input_pipeline import DeviceSplit, put_on_devices, steps_of_call, steps_per_epoch
from resnet.network import Network, Weights
from train import TrainState, init_state, make_run_steps
from training.early_size import image_size_of_step
from training.network import make_network
from training.optimizer import learning_rate_schedule, make_optimizer


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant: images are uint8 on the device, and normalised in the step."""
    config = _config_of_recipe(case) if case.recipe else make_config(case)
    mesh = make_mesh(case.batch)
    network = make_network(config, CLASSES)
    size = case.dataset_size or case.batch
    split = put_on_devices(Split(case.images(size), case.labels(size)), mesh)
    weights = network.init(seed=0)
    if case.task == "train":
        run = _training(config, network, weights, split=split, mesh=mesh, case=case)
    else:
        run = _prediction(network, jax.device_put(weights, replicated(mesh)), split)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    return Contestant(run, parameters, jax.devices()[0].device_kind, peak_device_memory)


def make_config(case: Case) -> ConfigDict:
    """Returns the config of a training or a prediction as in `case`."""
    config = default.get_config()
    config.model.depth = case.depth
    config.compute_dtype = case.dtype
    config.batch_size = case.batch
    config.steps_per_call = case.steps
    config.data.image_size = case.image_size
    # As the peers train: Adam at a constant rate, cross-entropy, nothing else.
    config.optimizer.name = "adam"
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.augment.update(flip=0.0, rotation=0.0, scale=0.0, translation=0.0, appearance=0.0)
    return config


def _config_of_recipe(case: Case) -> ConfigDict:
    return parse_command(json.loads(Path(case.recipe).read_text())["arguments"]).settings()


def _training(
    config: ConfigDict,
    network: Network,
    weights: Weights,
    *,
    split: DeviceSplit,
    mesh: Mesh,
    case: Case,
) -> Callable[[int], TrainState]:
    per_epoch = steps_per_epoch(split, config.batch_size)
    schedule = learning_rate_schedule(
        config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=per_epoch
    )
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
    initial = init_state(weights, optimizer, with_average=config.ema_decay > 0)
    state: TrainState = jax.device_put(initial._replace(step=np.int32(case.first_step)), replicated(mesh))
    step = case.first_step
    order = np.random.default_rng(0).permutation(len(split.labels)).astype(np.int32)
    permutation = jax.device_put(order, replicated(mesh))

    def run(steps: int) -> TrainState:
        nonlocal state, step
        end = step + steps
        while step < end:
            # A recipe is followed as in training, call by call; other cases repeat one batch in one call.
            per_call = steps_of_call(step, per_epoch, config) if case.recipe else steps
            count = min(end - step, per_call)
            size = image_size_of_step(step, config.num_epochs * per_epoch, config)
            state, history = run_steps(state, split, permutation, np.uint32(0), count, image_size=size)
            step += count
        return jax.block_until_ready((state, history))[0]

    return run


def _prediction(network: Network, weights: Weights, split: DeviceSplit) -> Callable[[int], None]:
    arranged = jax.jit(network.arrange, static_argnums=1)(weights, split.images.shape)
    logits = jax.jit(network.predict)

    def run(steps: int) -> None:
        for _ in range(steps):
            logits(weights, arranged, split.images).block_until_ready()

    return run


def peak_device_memory() -> int | None:
    """Returns the most bytes that the first device of JAX held at once, or None on a CPU."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else None
