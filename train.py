"""Training: the state, the jitted step, the loop over epochs, checkpoints and the summary of a run."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from evaluate import evaluate, make_predictor
from files import write_json
from input_pipeline import (
    REPLICA_AXIS,
    DeviceSplit,
    by_replica,
    check_visible_devices,
    epoch_permutation,
    has_replicas,
    make_mesh,
    put_on_devices,
    step_keys,
    steps_per_epoch,
    training_batch,
    training_images,
)
from kept_program import KeptProgram
from metrics import ProgressBar
from optimizer import learning_rate_schedule, make_optimizer, update_scales
from replicas import (
    SUMMARY_FILE,
    Replica,
    check_finite,
    group_seeds,
    read_summary,
    stack_states,
    summarize,
    summarize_seeds,
    take,
)
from resnet.network import Network, Tree, Weights, check_image_size
from resnet.pretrained import adopt, initial_weights, read_pretrained
from signals import Signals, StopRun
from spread import mean_and_std

STEP_METRICS = ("loss", "accuracy", "gradient_norm", "learning_rate")
TestLooks = Literal["never", "last", "every_epoch"]


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

    @property
    def averaged(self) -> Weights:
        """The moving average of the weights, the raw ones where none is kept."""
        return self.ema or self.weights


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
    calls begin and end does not change a bit of the result. On a mesh for several replicas, all but the
    split and the count have a leading axis of replicas.
    """
    train_step = make_train_step(network, optimizer, config)

    def run_steps(
        state: TrainState,
        split: DeviceSplit,
        permutation: jax.Array,
        seed: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, Tree]:
        steps_in_epoch = len(permutation) // config.batch_size

        def one_step(i: jax.Array, carry: tuple[TrainState, Tree]) -> tuple[TrainState, Tree]:
            state, history = carry
            index = state.step % steps_in_epoch
            progress = state.step / (config.num_epochs * steps_in_epoch)
            batch_key, augment_key = step_keys(seed, state.step)
            images, labels = training_batch(split, permutation, index, batch_key, config, mesh, progress)
            learning_rate = schedule(state.step)
            state, metrics = train_step(state, images, labels, augment_key, progress)
            metrics["learning_rate"] = learning_rate
            return state, jax.tree.map(lambda old, new: old.at[i].set(new), history, metrics)

        history = {name: jnp.zeros(min(config.steps_per_call, steps_in_epoch)) for name in STEP_METRICS}
        return lax.fori_loop(0, count, one_step, (state, history))

    if has_replicas(mesh):
        run_steps = jax.vmap(run_steps, in_axes=(0, None, 0, 0, None), spmd_axis_name=REPLICA_AXIS)
    return jax.jit(run_steps, donate_argnums=0, out_shardings=by_replica(mesh))


def train_and_evaluate(config: ConfigDict, workdir: Path, test: TestLooks = "last") -> dict[str, Any]:
    """Trains the run of `config` in `workdir`, from its newest checkpoint if there is one, and evaluates it.

    Several `config.seeds` get a folder of `workdir` each, which is a run of its own. Returns what it writes
    to `summary.json`. The test split is looked at once, after the last step; with `test` "never" not even
    then, with "every_epoch" also after each epoch, for the metrics alone, while the clock stands still.

    Raises:
        UserError: `config`, the data or `workdir` cannot be used, or the loss is no longer finite.
        StopRun: a signal asked the run to stop; it is saved.
    """
    settings.check(config)
    if not config.seeds:
        return Training(config).train([config.seed], [workdir], test)[0]
    make_training = lru_cache(maxsize=1)(partial(Training, config))
    summaries: dict[int, dict[str, Any]] = {}
    for seeds in group_seeds(config, workdir):
        training = make_training(len(seeds))
        training.save_settings(training.config, workdir)
        print(f"seed {', '.join(map(str, seeds))}", flush=True)
        workdirs = [settings.seed_workdir(workdir, seed) for seed in seeds]
        summaries |= zip(seeds, training.train(seeds, workdirs, test), strict=True)
    summary = summarize_seeds(config.seeds, [summaries[seed] for seed in config.seeds])
    if read_summary(workdir) != summary:
        write_json(workdir / SUMMARY_FILE, summary)
    return summary


class Training:
    """What runs that differ in their seed alone have in common: data on the devices, compiled programs."""

    def __init__(self, config: ConfigDict, replicas: int = 1) -> None:
        """Prepares to train `replicas` seeds as one.

        Raises:
            UserError: `config` or the data cannot be used.
        """
        self._pretrained = read_pretrained(config.init_from) if config.init_from else None
        if self._pretrained is not None:
            config = adopt(config, self._pretrained)
        check_image_size(config.data.image_size)
        check_visible_devices(config.gpu.visible_devices)
        self.config = config
        self._mesh = make_mesh(config.batch_size, replicas)
        self._dataset = datasets.load(config.data)
        self._train, self._val = datasets.train_val_split(self._dataset.train, config.data)
        self._data_digest = self._dataset.train.digest()
        self._per_epoch = steps_per_epoch(self._train, config.batch_size)

        self._network = Network(config, len(self._dataset.class_names))
        schedule = learning_rate_schedule(config, self._per_epoch)
        self._optimizer = make_optimizer(config, schedule)
        run_steps = make_run_steps(self._network, self._optimizer, schedule, config, self._mesh)
        self._run_steps = KeptProgram(run_steps, STEP_METRICS, config.to_dict(), by_replica(self._mesh))
        self._predict = make_predictor(self._network, config.batch_size, self._mesh)
        permute = partial(epoch_permutation, size=len(self._train.labels))
        if has_replicas(self._mesh):
            permute = jax.vmap(permute, in_axes=(0, None))
        self._permute = jax.jit(permute, out_shardings=by_replica(self._mesh))
        self._device_train = put_on_devices(training_images(self._train, config), self._mesh)

    def save_settings(self, config: ConfigDict, workdir: Path) -> None:
        """Makes `workdir` and writes `config` to its `config.json`.

        Raises:
            UserError: `workdir` cannot be written, or holds a run of other settings or images.
        """
        finished = read_summary(workdir).get("epochs") == config.num_epochs
        settings.check_same_run(config, workdir, self._data_digest, finished)
        settings.save(config, self._dataset.class_names, workdir, self._data_digest)

    def train(
        self, seeds: Sequence[int], workdirs: Sequence[Path], test: TestLooks = "last"
    ) -> list[dict[str, Any]]:
        """Trains as many `seeds` as it was prepared for, all from the same step, each in its own workdir.

        Returns the summaries that it writes; see `train_and_evaluate`.
        """
        config, mesh, per_epoch = self.config, self._mesh, self._per_epoch
        batch_size, total_steps = config.batch_size, config.num_epochs * per_epoch
        configs = [settings.of_seed(config, seed) for seed in seeds]
        for each, workdir in zip(configs, workdirs, strict=True):
            self.save_settings(each, workdir)

        with ExitStack() as stack, Signals() as signals:
            started = last_save = time.perf_counter()
            replicas = [stack.enter_context(Replica(w, config.checkpoint.keep)) for w in workdirs]
            state, step = self._restore_or_init(configs, replicas)
            splits = {"train": self._train}
            splits |= {"val": self._val} if self._val is not None else {}
            splits |= {"test": self._dataset.test} if test != "never" else {}
            about = {
                "epochs": config.num_epochs,
                "steps": total_steps,
                "prediction": settings.prediction(config),
            }
            written = [read_summary(workdir) for workdir in workdirs]
            if step == total_steps and all(
                about.items() <= each.items() and splits.keys() <= each.keys() for each in written
            ):
                return written

            def count_seconds() -> None:
                for replica in replicas:
                    replica.count_seconds((time.perf_counter() - started) / len(replicas))

            def save(val_accuracies: Sequence[float | None]) -> None:
                count_seconds()
                for i, replica in enumerate(replicas):
                    replica.save(step, take(state, i, mesh), val_accuracies[i])

            not_validated = [None] * len(replicas)
            seed_array = np.array(seeds, np.uint32) if has_replicas(mesh) else np.uint32(seeds[0])
            permutation = self._permute(seed_array, step // per_epoch)
            if step < total_steps:
                state, _ = self._run_steps(state, self._device_train, permutation, seed_array, 0)  # compiles
            for replica in replicas:
                replica.open_metrics(step)
            with ProgressBar(total_steps, step) as bar:
                while step < total_steps:
                    if signals.received:
                        save(not_validated)
                        raise StopRun(signals.received)
                    if step % per_epoch == 0:
                        permutation = self._permute(seed_array, step // per_epoch)
                    count = min(config.steps_per_call, per_epoch - step % per_epoch)
                    call_start = time.perf_counter()
                    state, history = self._run_steps(
                        state, self._device_train, permutation, seed_array, count
                    )
                    history = {
                        name: np.asarray(values).reshape(len(replicas), -1)[:, :count]
                        for name, values in history.items()
                    }
                    call_seconds = (time.perf_counter() - call_start) / len(replicas)  # each one's share
                    check_finite(history, step, replicas)
                    step += count
                    epoch, images = step / per_epoch, count * batch_size
                    for i, replica in enumerate(replicas):
                        measured = {name: float(values[i].mean()) for name, values in history.items()}
                        replica.note_steps(step, epoch, images, call_seconds, measured)
                    measured = {name: float(values.mean()) for name, values in history.items()}
                    bar.update(step, epoch, measured, images / call_seconds, batch_size * len(replicas))

                    at_epoch_end = step % per_epoch == 0
                    val_accuracies, is_best = not_validated, False
                    if self._val is not None and at_epoch_end:
                        measured = self._measure(state.averaged, self._val, len(replicas))
                        val_accuracies = [each["accuracy"] for each in measured]
                        notes = zip(replicas, measured, strict=True)
                        bests = [replica.note_validation(step, epoch, own) for replica, own in notes]
                        is_best = any(bests)
                        if state.ema:
                            raw = self._measure(state.weights, self._val, len(replicas))
                            for replica, each in zip(replicas, raw, strict=True):
                                replica.metrics.write(step, epoch, "val_raw", each)
                        bar.note(epoch, "validation", mean_and_std(measured)["mean"])
                    if test == "every_epoch" and at_epoch_end:
                        paused = time.perf_counter()
                        weights = state.averaged
                        measured = self._measure(weights, self._dataset.test, len(replicas))
                        for replica, each in zip(replicas, measured, strict=True):
                            replica.metrics.write(step, epoch, "test", each)
                        started += time.perf_counter() - paused

                    if (
                        step == total_steps
                        or is_best
                        or _is_save_epoch(step, per_epoch, config.checkpoint.every_epochs)
                        or 0 < config.checkpoint.every_minutes * 60 <= time.perf_counter() - last_save
                    ):
                        save(val_accuracies)
                        last_save = time.perf_counter()

            weights = {"raw": state.weights} | ({"ema": state.ema} if state.ema else {})
            summaries = [
                summarize(take(weights, i, mesh), splits, self._predict, mesh, signals)
                for i in range(len(replicas))
            ]
            count_seconds()
            for summary, replica in zip(summaries, replicas, strict=True):
                summary |= about | replica.speed()
                write_json(replica.workdir / SUMMARY_FILE, summary)
            return summaries

    def _restore_or_init(
        self, configs: Sequence[ConfigDict], replicas: Sequence[Replica]
    ) -> tuple[TrainState, int]:
        """The state to go on from, on the devices, and its step."""
        states = []
        for config, replica in zip(configs, replicas, strict=True):
            weights = None
            if self._pretrained is not None:
                weights = initial_weights(config, self._pretrained, len(self._dataset.class_names))
            initial = init_state(self._network, self._optimizer, config, weights)
            states.append(replica.restore(initial, self._mesh))
        steps = [int(state.step) for state in states]
        if len(set(steps)) > 1:
            raise UserError(
                f"{replicas[0].workdir.parent}: its seeds stand at steps {', '.join(map(str, steps))}, as"
                " damaged checkpoints were put aside; run the same command again, and they go on one by one"
            )
        return stack_states(states, self._mesh), steps[0]

    def _measure(self, weights: Weights, split: Split, replicas: int) -> list[dict[str, float]]:
        """`evaluate` of each replica's `weights`."""
        return [evaluate(self._predict, take(weights, i, self._mesh), split) for i in range(replicas)]


def _is_save_epoch(step: int, per_epoch: int, every_epochs: float) -> bool:
    """Whether the end of an epoch is the first one at or after the next multiple of `every_epochs`."""
    if step % per_epoch or not every_epochs:
        return False
    epoch = step // per_epoch
    return epoch // every_epochs > (epoch - 1) // every_epochs
