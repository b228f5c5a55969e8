"""The learning rate range test: train while the rate grows, and see where the loss falls and where it bursts.

Smith 2017 (arXiv:1506.01186), section 3.3, with the rate growing by a constant factor at each step.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

import datasets
from input_pipeline import (
    epoch_permutation,
    make_mesh,
    put_on_devices,
    replicated,
    steps_per_epoch,
    training_images,
)
from optimizer import make_optimizer
from resnet.network import Network, check_image_size
from resnet.pretrained import adopt, initial_weights, read_pretrained
from train import init_state, make_run_steps

STEPS = 120
LOWEST, HIGHEST = 1e-5, 10.0  # learning rates
SMOOTHING = 0.9  # of the moving average of losses: about ten steps
DIVERGED = 4.0  # times the lowest smoothed loss
LEAST_FALL = 0.02  # share of the first smoothed loss that the loss must fall by for a suggestion


def find_learning_rate(config: ConfigDict, steps: int = STEPS) -> dict[str, Any]:
    """Trains the network of `config` for `steps`; returns what came out, and what `suggest` says of it.

    It starts as a training would: fresh, or from `config.init_from`. `learning_rates` and `losses` are
    lists of numbers, one a step; the test ends early where the loss diverges. The validation split, if
    there is one, is left out, and the test split is not looked at.

    Raises:
        UserError: `config` or the data cannot be used.
    """
    pretrained = read_pretrained(config.init_from) if config.init_from else None
    config = adopt(config, pretrained) if pretrained else config.copy_and_resolve_references()
    check_image_size(config.data.image_size)
    config.ema_decay = 0.0  # It would change nothing here.
    mesh = make_mesh(config.batch_size)
    dataset = datasets.load(config.data)
    train, _ = datasets.train_val_split(dataset.train, config.data)
    per_epoch = steps_per_epoch(train, config.batch_size)
    network = Network(config, len(dataset.class_names))
    schedule = optax.exponential_decay(LOWEST, steps - 1, HIGHEST / LOWEST)
    optimizer = make_optimizer(config, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config, mesh)
    permute = jax.jit(partial(epoch_permutation, size=len(train.labels)), out_shardings=replicated(mesh))
    device_train = put_on_devices(training_images(train, config), mesh)
    seed = np.uint32(config.seed)
    weights = initial_weights(config, pretrained, len(dataset.class_names)) if pretrained else None
    state = jax.device_put(init_state(network, optimizer, config, weights), replicated(mesh))

    rates, losses = [], []
    with tqdm(total=steps, unit="step", disable=None, leave=False) as bar:
        while len(losses) < steps and not _has_diverged(losses):
            step = len(losses)
            count = min(config.steps_per_call, per_epoch - step % per_epoch, steps - step)
            state, history = run_steps(state, device_train, permute(seed, step // per_epoch), seed, count)
            rates += np.asarray(history["learning_rate"])[:count].tolist()
            losses += np.asarray(history["loss"])[:count].tolist()
            bar.update(count)
    kept = next((i for i in range(len(losses)) if _has_diverged(losses[: i + 1])), len(losses))
    rates, losses = rates[:kept], losses[:kept]
    return {"learning_rates": rates, "losses": losses, **suggest(np.array(rates), np.array(losses))}


def suggest(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
    """What a range test says: `losses` [steps] at the learning `rates` [steps], ascending.

    `lowest` is the rate at which the smoothed loss is lowest: beyond, training is ragged or bursts. Rates
    from a tenth of it up to it are usual for the peak of a schedule; `suggestion` is their middle, half
    a decade below. Both are None where the loss hardly falls.
    """
    nothing = dict.fromkeys(("suggestion", "lowest"))
    if not len(losses):
        return nothing
    smoothed = smooth(losses)
    lowest = int(smoothed.argmin())
    if smoothed[lowest] > (1 - LEAST_FALL) * smoothed[0]:
        return nothing
    return {"suggestion": float(rates[lowest] / 10**0.5), "lowest": float(rates[lowest])}


def smooth(losses: np.ndarray) -> np.ndarray:
    """The moving average of `losses` [steps], without the pull towards zero of its first values."""
    average, smoothed = 0.0, []
    for i, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**i))
    return np.array(smoothed)


def _has_diverged(losses: list[float]) -> bool:
    if not losses:
        return False
    smoothed = smooth(np.array(losses))
    return not np.isfinite(losses).all() or bool(smoothed[-1] > DIVERGED * smoothed.min())
