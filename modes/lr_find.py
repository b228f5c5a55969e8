"""`--mode=lr_find`: trains while the learning rate grows, to see where the loss falls and where it diverges.

The learning rate range test of Smith 2017 (arXiv:1506.01186), section 3.3, with a rate that grows by a
constant factor at each step.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from modes.flags import Command, Mode, require_workdir
from modes.train import fitting_into_memory

STEPS = 120
LOWEST, HIGHEST = 1e-5, 10.0  # learning rates
SMOOTHING = 0.9  # of the moving average of losses: about ten steps
DIVERGED = 4.0  # times the lowest smoothed loss
LEAST_FALL = 0.02  # share of the first smoothed loss that the loss must fall by for a suggestion


def run(command: Command) -> int:
    """Writes the curve of the test to `lr_find.json` and `.png` and prints a suggestion."""
    from evaluation.report import figures
    from resnet.files import write_json, write_result

    workdir = command.run_folder
    config = command.settings()
    with fitting_into_memory(config):
        result = find_learning_rate(config)
    rates, losses = np.array(result["learning_rates"]), np.array(result["losses"])
    marks = {name: result[name] for name in ("suggestion", "lowest") if result[name]}
    write_json(workdir / "lr_find.json", result)
    if len(losses):
        figure = figures.range_test(rates, losses, smooth(losses), marks)
        write_result(workdir / "lr_find.png", figures.encode_figure(figure))
    else:
        (workdir / "lr_find.png").unlink(missing_ok=True)
    if marks:
        print(
            f"suggestion: --config.optimizer.learning_rate={marks['suggestion']:.2g}"
            f" (the loss is lowest at {marks['lowest']:.2g})"
        )
    else:
        print("no suggestion: the loss did not fall at any learning rate")
    print(f"written: {workdir / 'lr_find.json'}{' and .png' if len(losses) else ''}")
    return 0


def find_learning_rate(config: ConfigDict, steps: int = STEPS) -> dict[str, Any]:
    """Trains the network of `config` for `steps`; returns `learning_rates`, `losses` and what they suggest.

    It starts as a training of the first seed would: fresh, or from `config.init_from`. Both lists have a
    number for every step. The test ends early if the loss diverges. Validation images, if there are any, are
    left out, and the test split is not used.

    Raises:
        UserError: `config` or the data cannot be used.
    """
    import optax
    from tqdm import tqdm

    schedule = optax.exponential_decay(LOWEST, steps - 1, HIGHEST / LOWEST)
    training = _Training(config, schedule, steps)
    rates: list[float] = []
    losses: list[float] = []
    with tqdm(total=steps, unit="step", disable=None, leave=False) as bar:
        while len(losses) < steps and not _has_diverged(losses):
            new_rates, new_losses = training.call(len(losses), steps - len(losses))
            rates += new_rates
            losses += new_losses
            bar.update(len(new_losses))
    end = next((i for i in range(len(losses)) if _has_diverged(losses[: i + 1])), len(losses))
    rates, losses = rates[:end], losses[:end]
    return {"learning_rates": rates, "losses": losses, **suggest(np.array(rates), np.array(losses))}


class _Training:
    """A training that records nothing, for its learning rates and losses alone."""

    def __init__(self, config: ConfigDict, schedule: Any, steps: int) -> None:
        """Prepares to make `steps`; a shorter training than that becomes as long."""
        import jax

        import datasets
        from devices.mesh import check_visible_devices, make_mesh, replicated
        from input_pipeline import first_seed, make_epoch_order, place, steps_per_epoch
        from train import init_state, make_run_steps
        from training.loss import class_weights
        from training.network import (
            adopt,
            check_image_sizes,
            initial_weights,
            make_network,
            read_initial_weights,
        )
        from training.optimizer import make_optimizer

        pretrained = read_initial_weights(config)
        config = adopt(config, pretrained) if pretrained else config.copy_and_resolve_references()
        check_visible_devices(config.gpu.visible_devices)
        check_image_sizes(config)
        seed = first_seed(config)
        mesh = make_mesh(config.batch_size)
        dataset = datasets.load(config.data)
        train, _ = datasets.train_val_split(dataset, config.data)
        network = make_network(config, len(dataset.class_names))
        optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
        weights = initial_weights(network, pretrained, init_head=config.init_head, seed=seed)
        state = init_state(weights, optimizer, with_average=False)  # An average would change no loss.
        config.ema_decay = 0.0
        self._config, self._seed = config, np.uint32(seed)
        self._per_epoch = steps_per_epoch(train, config.batch_size)
        config.num_epochs = max(config.num_epochs, -(-steps // self._per_epoch))
        self._run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
        self._permute = jax.jit(
            make_epoch_order(train.labels, config.data.sampling), out_shardings=replicated(mesh)
        )
        balance = class_weights(train.labels, network.num_classes, config.loss.class_weights)
        self._data = place(train, config, mesh, balance)
        self._data.start(seed, 0)
        self._state = jax.device_put(state, replicated(mesh))

    def call(self, step: int, most: int) -> tuple[list[float], list[float]]:
        """Makes a call of at most `most` steps after `step`; returns their learning rates and losses."""
        from input_pipeline import steps_of_call
        from training.early_size import image_size_of_step

        count = min(steps_of_call(step, self._per_epoch, self._config), most)
        permutation = self._permute(self._seed, step // self._per_epoch)
        images = self._data.batches(step)
        size = image_size_of_step(step, self._config.num_epochs * self._per_epoch, self._config)
        self._state, history = self._run_steps(
            self._state, images, permutation, self._seed, count, image_size=size
        )
        rates, losses = (np.asarray(history[name])[:count].tolist() for name in ("learning_rate", "loss"))
        return rates, losses


def suggest(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
    """Returns what a range test suggests for `losses` [steps] at the ascending learning `rates` [steps].

    `lowest` is the rate at which the smoothed loss is lowest; at higher rates training becomes ragged or
    diverges. Rates from a tenth of it up to it are usual for the peak of a schedule; `suggestion` is in their
    middle, half a decade below. Both are None if the loss hardly falls.
    """
    nothing: dict[str, float | None] = {"suggestion": None, "lowest": None}
    if not len(losses):
        return nothing
    smoothed = smooth(losses)
    lowest = int(smoothed.argmin())
    if smoothed[lowest] > (1 - LEAST_FALL) * smoothed[0]:
        return nothing
    return {"suggestion": float(rates[lowest] / 10**0.5), "lowest": float(rates[lowest])}


def smooth(losses: np.ndarray) -> np.ndarray:
    """Returns the moving average of `losses` [steps], its first values corrected for their bias to zero."""
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


MODE = Mode(
    help="Try learning rates in a short training and suggest one.",
    usage=("--mode=lr_find --config=configs/signs.py --workdir=runs/lr",),
    flags=(),
    check=require_workdir,
    run=run,
    trains=True,
)
