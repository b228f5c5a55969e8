"""Training: the state, the jitted step, the loop over epochs, checkpoints and the summary of a run."""

import json
import platform
import signal
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import datasets
import settings
from datasets.types import Split
from errors import UserError
from evaluate import Predictor, evaluate, make_predictor
from input_pipeline import (
    DeviceSplit,
    augment,
    augmentation_key,
    check_visible_devices,
    epoch_permutation,
    make_mesh,
    put_on_devices,
    replicated,
    steps_per_epoch,
    training_batch,
)
from metrics import MetricsWriter, Progress
from resnet.checkpoint import Checkpoints
from resnet.network import Network, Tree, Weights, check_image_size

SUMMARY_FILE = "summary.json"


class TrainState(NamedTuple):
    """All that training changes. `step` int32 [] counts the updates made."""

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    ema: Weights | None

    @property
    def weights(self) -> Weights:
        """The raw weights, as opposed to their moving average `ema`."""
        return Weights(self.params, self.batch_stats)


class StopRun(Exception):
    """SIGTERM or SIGINT came; the run is saved. `signum` is the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Notes SIGTERM and SIGINT instead of dying by them; a second one kills as usual."""

    def __enter__(self) -> "Signals":
        self.received = 0
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: Any) -> None:
        self.received = signum
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)


class StepTimer:
    """Images per second of the calls of the step, and of all of them together."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._images, self._seconds = 0, 0.0

    def start(self) -> None:
        self._start = time.perf_counter()

    def stop(self, steps: int) -> float:
        seconds = time.perf_counter() - self._start
        self._images += steps * self._batch_size
        self._seconds += seconds
        return steps * self._batch_size / seconds

    def mean_rate(self) -> float | None:
        return self._images / self._seconds if self._images else None


def learning_rate_schedule(config: ConfigDict, steps_in_epoch: int) -> optax.Schedule:
    """Linear warm-up from zero, then a cosine to zero at the last step, or constant."""
    optimizer = config.optimizer
    warmup = round(optimizer.warmup_epochs * steps_in_epoch)
    total = config.num_epochs * steps_in_epoch
    if optimizer.schedule == "cosine":
        after = optax.cosine_decay_schedule(optimizer.learning_rate, max(total - warmup, 1))
    else:
        after = optax.constant_schedule(optimizer.learning_rate)
    if not warmup:
        return after
    before = optax.linear_schedule(0.0, optimizer.learning_rate, warmup)
    return optax.join_schedules([before, after], [warmup])


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`; weight decay touches kernels alone."""
    optimizer = config.optimizer
    decay = (
        optax.add_decayed_weights(optimizer.weight_decay, mask=_kernels)
        if optimizer.weight_decay
        else optax.identity()
    )
    adam = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.epsilon)
    direction = {
        "sgd": [decay, optax.trace(optimizer.momentum, nesterov=True)],
        "adam": [decay, adam],
        "adamw": [adam, decay],
    }[optimizer.name]
    clip = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    return optax.chain(*clip, *direction, optax.scale_by_learning_rate(schedule))


def _kernels(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def init_state(network: Network, optimizer: optax.GradientTransformation, config: ConfigDict) -> TrainState:
    """The state before the first step, in host memory."""
    weights = network.init(config.seed)
    ema = jax.tree.map(np.copy, weights) if config.ema_decay else None
    return TrainState(np.int32(0), *weights, optimizer.init(weights.params), ema)


def make_train_step(
    network: Network, optimizer: optax.GradientTransformation, config: ConfigDict
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Tree]]:
    """Returns the pure function (state, images uint8 [N, H, W, 3], labels [N], key) -> (state, metrics)."""

    def loss_of(params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array) -> Any:
        logits, _, batch_stats = network.apply(Weights(params, batch_stats), images, train=True)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        if config.optimizer.l2_stem_and_head:
            kernels = params["stem_conv"]["kernel"], params["head"]["kernel"]
            loss += config.optimizer.l2_stem_and_head * sum(jnp.sum(k**2) for k in kernels)
        return loss, (batch_stats, jnp.mean(logits.argmax(-1) == labels))

    def train_step(
        state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Tree]:
        images = augment(key, images, config.augment)
        (loss, (batch_stats, accuracy)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.batch_stats, images, labels
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema = state.ema
        if ema is not None:
            # Shorter at first, or the average would carry the initial weights for long.
            decay = jnp.minimum(config.ema_decay, step / (step + 9.0))
            ema = jax.tree.map(
                lambda old, new: old + (1 - decay) * (new - old), ema, Weights(params, batch_stats)
            )
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": optax.global_norm(gradients),
        }
        return TrainState(step, params, batch_stats, opt_state, ema), metrics

    return train_step


def make_run_steps(
    network: Network,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: ConfigDict,
    mesh: Mesh,
) -> Callable[..., tuple[TrainState, Tree]]:
    """Returns the jitted (state, split, permutation, seed, count) -> (state, metrics of each step).

    It makes `count` steps, at most `config.steps_per_call`, within an epoch; the state is donated. The
    count is a value, not part of the program: every call runs the same compiled loop, so that where
    calls begin and end does not change a bit of the result.
    """
    train_step = make_train_step(network, optimizer, config)

    @partial(jax.jit, donate_argnums=0, out_shardings=replicated(mesh))
    def run_steps(
        state: TrainState,
        split: DeviceSplit,
        permutation: jax.Array,
        seed: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, Tree]:
        steps_in_epoch = len(split.labels) // config.batch_size
        key = augmentation_key(seed)

        def one_step(i: jax.Array, carry: tuple[TrainState, Tree]) -> tuple[TrainState, Tree]:
            state, history = carry
            images, labels = training_batch(
                split, permutation, state.step % steps_in_epoch, config.batch_size, mesh
            )
            learning_rate = schedule(state.step)
            state, metrics = train_step(state, images, labels, jax.random.fold_in(key, state.step))
            metrics["learning_rate"] = learning_rate
            return state, jax.tree.map(lambda old, new: old.at[i].set(new), history, metrics)

        names = ("loss", "accuracy", "gradient_norm", "learning_rate")
        history = {name: jnp.zeros(config.steps_per_call) for name in names}
        return lax.fori_loop(0, count, one_step, (state, history))

    return run_steps


def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the run of `config` in `workdir`, from its newest checkpoint if there is one, and evaluates it.

    Returns what it writes to `summary.json`. The test split is looked at once, after the last step.

    Raises:
        UserError: `config`, the data or `workdir` cannot be used, or the loss is no longer finite.
        StopRun: a signal asked the run to stop; it is saved.
    """
    settings.check(config)
    check_image_size(config.data.image_size)
    settings.check_same_run(config, workdir)
    check_visible_devices(config.gpu.visible_devices)
    mesh = make_mesh(config.batch_size)
    dataset = datasets.load(config.data)
    train, val = datasets.train_val_split(dataset.train, config.data)
    per_epoch = steps_per_epoch(train, config.batch_size)
    total_steps = config.num_epochs * per_epoch
    settings.save(config, dataset.class_names, workdir)

    network = Network(config, len(dataset.class_names))
    schedule = learning_rate_schedule(config, per_epoch)
    optimizer = make_optimizer(config, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config, mesh)
    predict = make_predictor(network, config.batch_size, mesh)
    permute = jax.jit(partial(epoch_permutation, size=len(train.labels)), out_shardings=replicated(mesh))
    device_train = put_on_devices(train, mesh)
    seed = np.uint32(config.seed)

    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints, Signals() as signals:
        started = time.perf_counter()
        state, seconds_before = _restore_or_init(checkpoints, network, optimizer, config, mesh)
        step = int(state.step)
        if step == total_steps and (workdir / SUMMARY_FILE).exists():
            return json.loads((workdir / SUMMARY_FILE).read_text())
        permutation = permute(seed, step // per_epoch)
        state, _ = run_steps(state, device_train, permutation, seed, 0)  # compiles
        timer = StepTimer(config.batch_size)
        last_save = time.perf_counter()
        with MetricsWriter(workdir, step) as writer, Progress(total_steps, step) as progress:
            while step < total_steps:
                if step % per_epoch == 0:
                    permutation = permute(seed, step // per_epoch)
                count = min(config.steps_per_call, per_epoch - step % per_epoch)
                timer.start()
                state, history = run_steps(state, device_train, permutation, seed, count)
                history = {name: np.asarray(values)[:count] for name, values in history.items()}
                rate = timer.stop(count)
                _check_finite(history, step, checkpoints)
                step += count
                epoch = step / per_epoch
                measured = {name: float(values.mean()) for name, values in history.items()}
                writer.write(step, epoch, "train", {**measured, "images_per_second": rate})
                progress.update(step, epoch, measured, rate, config.batch_size)

                val_accuracy = None
                if val is not None and step % per_epoch == 0:
                    measured = evaluate(predict, state.ema or state.weights, val)
                    val_accuracy = measured["accuracy"]
                    writer.write(step, epoch, "val", measured)
                    progress.note(epoch, "validation", measured)

                now = time.perf_counter()
                if (
                    step == total_steps
                    or signals.received
                    or _is_save_epoch(step, per_epoch, config.checkpoint.every_epochs)
                    or 0 < config.checkpoint.every_minutes * 60 <= now - last_save
                ):
                    seconds = seconds_before + now - started
                    checkpoints.save(step, state, {"seconds": seconds}, val_accuracy)
                    last_save = now
                if signals.received and step < total_steps:
                    raise StopRun(signals.received)

            splits = {"train": train, "val": val, "test": dataset.test}
            summary = _summarize(state, splits, predict, mesh)
            for name in ("train", "test"):
                writer.write(step, config.num_epochs, f"{name}_final", summary.get("ema", summary)[name])
    summary |= {
        "epochs": config.num_epochs,
        "steps": step,
        "seconds": round(seconds_before + time.perf_counter() - started, 1),
        "images_per_second": timer.mean_rate(),
    }
    temporary = workdir / (SUMMARY_FILE + ".tmp")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    temporary.replace(workdir / SUMMARY_FILE)
    return summary


def _restore_or_init(
    checkpoints: Checkpoints,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh,
) -> tuple[TrainState, float]:
    """The state to go on from, on the devices, and the seconds that were spent on it before."""
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(lambda: init_state(network, optimizer, config)),
    )
    restored = checkpoints.restore_newest(abstract)
    if restored is not None:
        state, progress = restored
        print(f"resuming from {checkpoints.newest()}", flush=True)
        return state, progress["seconds"]
    return jax.device_put(init_state(network, optimizer, config), replicated(mesh)), 0.0


def _is_save_epoch(step: int, per_epoch: int, every_epochs: float) -> bool:
    """Whether the end of an epoch is the first one at or after the next multiple of `every_epochs`."""
    if step % per_epoch or not every_epochs:
        return False
    epoch = step // per_epoch
    return epoch // every_epochs > (epoch - 1) // every_epochs


def _check_finite(history: Tree, step: int, checkpoints: Checkpoints) -> None:
    """Stops the run if a step after `step` had a loss or a gradient that is not finite."""
    finite = np.isfinite(history["loss"]) & np.isfinite(history["gradient_norm"])
    if not finite.all():
        first = int(finite.argmin())
        checkpoints.wait()
        # Weights that give no finite loss are no good, though every one of them may be finite.
        checkpoints.discard(step + first)
        kept = checkpoints.newest()
        raise UserError(
            f"step {step + first + 1}: loss {history['loss'][first]}, gradient norm"
            f" {history['gradient_norm'][first]}, expected finite numbers; stopped,"
            f" {f'the last good checkpoint is {kept}' if kept else 'no checkpoint was saved yet'};"
            " go on from it with a lower --config.optimizer.learning_rate"
        )


def _summarize(
    state: TrainState, splits: dict[str, Split | None], predict: Predictor, mesh: Mesh
) -> dict[str, Any]:
    weights = {"raw": state.weights} | ({"ema": state.ema} if state.ema else {})
    measured = {
        kind: {name: evaluate(predict, values, split) for name, split in splits.items() if split is not None}
        for kind, values in weights.items()
    }
    device = mesh.devices.flat[0]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        **measured.pop("raw"),
        **measured,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "device": f"{mesh.devices.size} x {device.device_kind} ({device.platform})",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }
