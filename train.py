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
from augment import augment
from datasets.types import Split
from errors import UserError
from evaluate import Predictor, evaluate, make_predictor
from input_pipeline import (
    DeviceSplit,
    augmentation_key,
    check_visible_devices,
    epoch_permutation,
    make_mesh,
    put_on_devices,
    replicated,
    steps_per_epoch,
    training_batch,
    training_images,
)
from metrics import MetricsWriter, ProgressBar
from optimizer import learning_rate_schedule, make_optimizer, update_scales
from report import write_json
from resnet.checkpoint import Checkpoints
from resnet.network import Network, Tree, Weights, check_image_size
from resnet.pretrained import adopt, initial_weights, read_pretrained

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


class Progress(NamedTuple):
    """What a run has spent so far; saved in its checkpoints."""

    seconds: float = 0.0  # since the first start, without the time between a kill and the next start
    images: int = 0  # trained on
    step_seconds: float = 0.0  # of `seconds`, those in training steps
    best_accuracy: float = -1.0  # by validation


def init_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    weights: Weights | None = None,
) -> TrainState:
    """The state before the first step, in host memory: from `weights`, or from those that the seed draws."""
    weights = weights or network.init(config.seed)
    ema = jax.tree.map(np.copy, weights) if config.ema_decay else None
    return TrainState(np.int32(0), *weights, jax.jit(optimizer.init)(weights.params), ema)


def make_train_step(
    network: Network, optimizer: optax.GradientTransformation, config: ConfigDict
) -> Callable[..., tuple[TrainState, Tree]]:
    """Returns the pure (state, images uint8 [N, H, W, C], labels [N], key, progress) -> (state, metrics).

    `progress` is the share of the training that is done, 1 if not given.
    """

    def loss_of(params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array) -> Any:
        if config.finetune.frozen or config.finetune.freeze_norm:
            # No gradient is computed for what does not move, nor counted in its norm.
            scales = update_scales(params, config)
            params = jax.tree.map(lambda p, scale: p if scale else lax.stop_gradient(p), params, scales)
        logits, _, batch_stats = network.apply(Weights(params, batch_stats), images, train=True)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        if config.optimizer.l2_stem_and_head:
            kernels = params["stem_conv"]["kernel"], params["head"]["kernel"]
            loss += config.optimizer.l2_stem_and_head * sum(jnp.sum(k**2) for k in kernels)
        return loss, (batch_stats, jnp.mean(logits.argmax(-1) == labels))

    def train_step(
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        progress: float | jax.Array = 1.0,
    ) -> tuple[TrainState, Tree]:
        images = augment(key, images, config.augment, progress)
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
        steps_in_epoch = len(permutation) // config.batch_size
        seed_key = augmentation_key(seed)

        def one_step(i: jax.Array, carry: tuple[TrainState, Tree]) -> tuple[TrainState, Tree]:
            state, history = carry
            index, key = state.step % steps_in_epoch, jax.random.fold_in(seed_key, state.step)
            progress = state.step / (config.num_epochs * steps_in_epoch)
            images, labels = training_batch(split, permutation, index, key, config, mesh, progress)
            learning_rate = schedule(state.step)
            state, metrics = train_step(state, images, labels, key, progress)
            metrics["learning_rate"] = learning_rate
            return state, jax.tree.map(lambda old, new: old.at[i].set(new), history, metrics)

        names = ("loss", "accuracy", "gradient_norm", "learning_rate")
        history = {name: jnp.zeros(min(config.steps_per_call, steps_in_epoch)) for name in names}
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
    pretrained = read_pretrained(config.init_from) if config.init_from else None
    if pretrained is not None:
        config = adopt(config, pretrained)
    check_image_size(config.data.image_size)
    check_visible_devices(config.gpu.visible_devices)
    mesh = make_mesh(config.batch_size)
    dataset = datasets.load(config.data)
    train, val = datasets.train_val_split(dataset.train, config.data)
    per_epoch = steps_per_epoch(train, config.batch_size)
    total_steps = config.num_epochs * per_epoch
    data_digest = dataset.train.digest()
    settings.check_same_run(config, workdir, data_digest)
    settings.save(config, dataset.class_names, workdir, data_digest)

    num_classes = len(dataset.class_names)
    network = Network(config, num_classes)
    weights = None if pretrained is None else initial_weights(config, pretrained, num_classes)
    schedule = learning_rate_schedule(config, per_epoch)
    optimizer = make_optimizer(config, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config, mesh)
    predict = make_predictor(network, config.batch_size, mesh)
    permute = jax.jit(partial(epoch_permutation, size=len(train.labels)), out_shardings=replicated(mesh))
    device_train = put_on_devices(training_images(train, config), mesh)
    seed = np.uint32(config.seed)

    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints, Signals() as signals:
        started = last_save = time.perf_counter()
        initial = init_state(network, optimizer, config, weights)
        state, before = _restore_or_init(checkpoints, initial, mesh)
        step, images, step_seconds, best_accuracy = int(state.step), *before[1:]
        if step == total_steps and (summary := _finished_summary(workdir, step)):
            return summary

        def save(val_accuracy: float | None) -> None:
            seconds = before.seconds + time.perf_counter() - started
            progress = Progress(seconds, images, step_seconds, best_accuracy)
            checkpoints.save(step, state, progress._asdict(), val_accuracy)

        permutation = permute(seed, step // per_epoch)
        if step < total_steps:
            state, _ = run_steps(state, device_train, permutation, seed, 0)  # compiles
        with MetricsWriter(workdir, step) as writer, ProgressBar(total_steps, step) as bar:
            while step < total_steps:
                if signals.received:
                    save(None)
                    raise StopRun(signals.received)
                if step % per_epoch == 0:
                    permutation = permute(seed, step // per_epoch)
                count = min(config.steps_per_call, per_epoch - step % per_epoch)
                call_start = time.perf_counter()
                state, history = run_steps(state, device_train, permutation, seed, count)
                history = {name: np.asarray(values)[:count] for name, values in history.items()}
                call_seconds = time.perf_counter() - call_start
                _check_finite(history, step, checkpoints)
                step += count
                images += count * config.batch_size
                step_seconds += call_seconds
                epoch = step / per_epoch
                measured = {name: float(values.mean()) for name, values in history.items()}
                rate = count * config.batch_size / call_seconds
                writer.write(step, epoch, "train", {**measured, "images_per_second": rate})
                bar.update(step, epoch, measured, rate, config.batch_size)

                val_accuracy, is_best = None, False
                if val is not None and step % per_epoch == 0:
                    measured = evaluate(predict, state.ema or state.weights, val)
                    val_accuracy = measured["accuracy"]
                    is_best = val_accuracy > best_accuracy
                    best_accuracy = max(val_accuracy, best_accuracy)
                    writer.write(step, epoch, "val", measured)
                    bar.note(epoch, "validation", measured)

                if (
                    step == total_steps
                    or is_best
                    or _is_save_epoch(step, per_epoch, config.checkpoint.every_epochs)
                    or 0 < config.checkpoint.every_minutes * 60 <= time.perf_counter() - last_save
                ):
                    save(val_accuracy)
                    last_save = time.perf_counter()

        splits = {"train": train, "val": val, "test": dataset.test}
        summary = _summarize(state, splits, predict, mesh, signals)
    summary |= {
        "epochs": config.num_epochs,
        "steps": step,
        "seconds": round(before.seconds + time.perf_counter() - started, 1),
        "images_per_second": round(images / step_seconds, 2),
    }
    write_json(summary, workdir / SUMMARY_FILE)
    return summary


def _restore_or_init(
    checkpoints: Checkpoints, initial: TrainState, mesh: Mesh
) -> tuple[TrainState, Progress]:
    """The state to go on from, on the devices, and what was spent on it before."""
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), initial
    )
    restored = checkpoints.restore_newest(abstract)
    if restored is None:
        return jax.device_put(initial, replicated(mesh)), Progress()
    state, progress = restored
    print(f"resuming from {checkpoints.newest()}", flush=True)
    return state, Progress(**progress)


def _finished_summary(workdir: Path, step: int) -> dict[str, Any] | None:
    """What an earlier start wrote after the same `step`, None if it did not come to that."""
    try:
        summary = json.loads((workdir / SUMMARY_FILE).read_text())
        return summary if summary["steps"] == step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
            " run again with a lower --config.optimizer.learning_rate"
        )


def _summarize(
    state: TrainState,
    splits: dict[str, Split | None],
    predict: Predictor,
    mesh: Mesh,
    signals: Signals,
) -> dict[str, Any]:
    measured: dict[str, dict[str, Any]] = {"raw": {}} | ({"ema": {}} if state.ema else {})
    for kind, results in measured.items():
        for name, split in splits.items():
            if signals.received:
                raise StopRun(signals.received)
            if split is not None:
                results[name] = evaluate(predict, state.ema if kind == "ema" else state.weights, split)
    device = mesh.devices.flat[0]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        **measured.pop("raw"),
        **measured,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "device": f"{mesh.devices.size} x {device.device_kind} ({device.platform})",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }
