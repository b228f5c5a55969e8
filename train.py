"""Training: the state, the jitted step, and the loop over calls of steps."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
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
from configs import rules
from datasets.contents import image_table
from datasets.types import Split
from devices import hosts
from devices.mesh import (
    REPLICA_AXIS,
    by_replica,
    check_visible_devices,
    describe_devices,
    has_replicas,
    make_mesh,
    own_copy,
    own_sharding,
    stack_states,
    unstack_states,
)
from devices.program_cache import CachedProgram
from evaluation.predictor import evaluate_seeds, make_predictor
from input_pipeline import (
    CallBatches,
    DeviceSplit,
    batches_of_call,
    is_streamed,
    make_epoch_order,
    place,
    step_keys,
    steps_of_call,
    steps_per_epoch,
)
from resnet.files import write_json
from resnet.network import Network, Tree, Weights
from resnet.run import seed_workdir
from training.augment import augment, size_after_crop
from training.draws import Draw
from training.early_size import at_size, image_size_of_step, image_sizes, settings_of_step, steps_left
from training.loss import class_weights, classification_loss
from training.mixing import mix
from training.network import Start, check_image_sizes, find_start, initial_weights, make_network
from training.optimizer import can_be_packed, learning_rate_schedule, make_optimizer, update_scales
from training.packing import NO_PACKING, NoPacking, Packing
from training.progress import ProgressBar
from training.seeds import group_seeds
from training.signals import Signals, StopRun
from workdir import settings
from workdir.lock import locked
from workdir.recorder import CallTimes, Host, Recorder, Schedule, record_settings
from workdir.settings import Sources
from workdir.statistics import mean_and_std
from workdir.summary import SUMMARY_FILE, make_summaries, read_summary, summarize_seeds

STEP_METRICS = ("loss", "accuracy", "gradient_norm", "learning_rate")
TestLooks = Literal["never", "last", "every_epoch"]


# The state and the step


class TrainState(NamedTuple):
    """Everything that training changes. `step` int32 [] counts the updates that were made."""

    step: jax.Array | np.int32
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
        """The moving average of the weights, or the raw weights if no average is kept."""
        return self.ema or self.weights


def init_state(
    weights: Weights, optimizer: optax.GradientTransformation, *, with_average: bool
) -> TrainState:
    """Returns the state before the first step, in host memory, that starts from `weights`."""
    ema = jax.tree.map(np.copy, weights) if with_average else None
    opt_state = jax.jit(optimizer.init)(weights.params)
    return TrainState(np.int32(0), weights.params, weights.batch_stats, opt_state, ema)


def make_loss(network: Network, config: ConfigDict) -> Callable[..., Any]:
    """Returns the loss of (params, batch_stats, images, targets, class_weights, key).

    `targets` are float32 [N, classes], `class_weights` float32 [classes] or None, and `key` draws what
    stochastic depth skips. The loss comes with (batch_stats, hits): bool [N], whether the most probable class
    is that of the largest target.
    """

    def loss_of(
        params: Tree,
        batch_stats: Tree,
        images: jax.Array,
        targets: jax.Array,
        class_weights: jax.Array | None,
        key: jax.Array,
    ) -> Any:
        if config.finetune.frozen or config.finetune.freeze_norm:
            # What does not move needs no gradient, and does not count in the norm of the gradient.
            scales = update_scales(params, config.finetune, len(network.architecture.blocks))
            params = jax.tree.map(lambda p, scale: p if scale else lax.stop_gradient(p), params, scales)
        logits, _, batch_stats = network.apply(Weights(params, batch_stats), images, train=True, key=key)
        loss = classification_loss(
            logits,
            targets,
            name=config.loss.name,
            smoothing=config.label_smoothing,
            weights=class_weights,
        )
        if config.optimizer.l2_stem_and_head:
            kernels = params["stem_conv"]["kernel"], params["head"]["kernel"]
            loss += config.optimizer.l2_stem_and_head * sum(jnp.sum(k**2) for k in kernels)
        return loss, (batch_stats, logits.argmax(-1) == targets.argmax(-1))

    return loss_of


def moving_average(average: Weights, new: Weights, step: jax.Array | np.int32, config: ConfigDict) -> Weights:
    """Returns the `average` of the weights after `step`, moved towards the `new` ones.

    It is shorter at first, or it would carry the initial weights for long. While gradients are accumulated,
    it waits for the update.
    """
    updates = step // config.optimizer.accumulate
    decay = jnp.minimum(config.ema_decay, updates / (updates + 9.0))
    if config.optimizer.accumulate > 1:
        decay = jnp.where(step % config.optimizer.accumulate == 0, decay, 1.0)
    return jax.tree.map(lambda old, value: old + (1 - decay) * (value - old), average, new)


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    packing: Packing | NoPacking = NO_PACKING,
    image_size: int | None = None,
) -> Callable[..., tuple[TrainState, Tree]]:
    """Returns the pure (state, images uint8 [N, H, W, C], labels [N], key, progress) -> (state, metrics).

    `progress` is the share of the training that is done; its default is 1. `class_weights` are those of
    `training.loss.class_weights`, or None. The weights in the state are as `packing` packs them. The network
    learns from images of `image_size` pixels a side, if that is given.
    """
    loss_and_gradients = jax.value_and_grad(make_loss(network, config), has_aux=True)
    size = size_after_crop(config.data)

    def train_step(
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        *,
        progress: float | jax.Array = 1.0,
        class_weights: jax.Array | None = None,
    ) -> tuple[TrainState, Tree]:
        targets = jax.nn.one_hot(labels, network.num_classes)
        images = augment(key, images, config.augment, progress, size=size)
        images, targets = mix(key, images, targets, config.augment)
        depth_key = jax.random.fold_in(key, Draw.STOCHASTIC_DEPTH)
        weights = packing.unpack(state.weights)
        if image_size and image_size != size:
            images = at_size(images, image_size)
        (loss, (batch_stats, hits)), gradients = loss_and_gradients(
            *weights, images, targets, class_weights, depth_key
        )
        gradients, batch_stats = packing.pack((gradients, batch_stats))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema = state.ema
        if ema is not None:
            ema = moving_average(ema, Weights(params, batch_stats), step, config)
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(hits),
            "gradient_norm": optax.global_norm(gradients),
        }
        return TrainState(step, params, batch_stats, opt_state, ema), metrics

    return train_step


def make_run_steps(
    network: Network,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    config: ConfigDict,
    mesh: Mesh,
    packed: bool | None = None,
) -> Callable[..., tuple[TrainState, Tree]]:
    """Returns the jitted (state, data, permutation, seed, count) -> (state, metrics of every step).

    It makes `count` steps within an epoch, at most `config.steps_per_call`; the state is donated. The count
    is a value, so every call runs the same compiled loop, and where calls begin does not change a bit. The
    keyword `image_size` names another size for the network to learn from, with a program of its own. On a
    mesh for several replicas, the state, the permutation and the seed have a leading axis of replicas.
    Within a call the weights may be `packed`. They are on a GPU, unless the optimizer looks at layers.
    """
    if packed is None:
        packed = jax.default_backend() == "gpu" and can_be_packed(config.optimizer, config.finetune)
    accumulate = config.optimizer.accumulate

    def run_steps(
        state: TrainState,
        data: DeviceSplit | CallBatches,
        permutation: jax.Array,
        seed: jax.Array,
        count: jax.Array,
        image_size: int | None,
    ) -> tuple[TrainState, Tree]:
        steps_in_epoch = len(permutation) // config.batch_size
        packing = Packing(state.weights) if packed else NO_PACKING
        train_step = make_train_step(network, optimizer, config, packing, image_size)
        batches = batches_of_call(data, permutation, state.step, seed, config=config, mesh=mesh)

        def one_step(i: jax.Array, carry: tuple[TrainState, Tree]) -> tuple[TrainState, Tree]:
            state, history = carry
            progress = state.step / (config.num_epochs * steps_in_epoch)
            _, augment_key = step_keys(seed, state.step)
            # The rate of the update that this batch is part of.
            learning_rate = schedule(state.step // accumulate * accumulate)
            state, metrics = train_step(
                state,
                batches.images[i],
                batches.labels[i],
                augment_key,
                progress=progress,
                class_weights=batches.class_weights,
            )
            metrics["learning_rate"] = learning_rate
            return state, jax.tree.map(lambda old, new: old.at[i].set(new), history, metrics)

        history = {name: jnp.zeros(min(config.steps_per_call, steps_in_epoch)) for name in STEP_METRICS}
        state, history = lax.fori_loop(0, count, one_step, (packing.pack(state), history))
        return packing.unpack(state), history

    def run_steps_of_all(*arguments: Any, image_size: int | None = None) -> tuple[TrainState, Tree]:
        run = partial(run_steps, image_size=image_size)
        if has_replicas(mesh):
            run = jax.vmap(run, in_axes=(0, None, 0, 0, None), spmd_axis_name=REPLICA_AXIS)
        return run(*arguments)

    return jax.jit(
        run_steps_of_all, donate_argnums=0, static_argnames="image_size", out_shardings=by_replica(mesh)
    )


# A run


def train_and_evaluate(config: ConfigDict, workdir: Path, test: TestLooks = "last") -> dict[str, Any]:
    """Trains the run of `config` in `workdir`, from its newest checkpoint if there is one, and evaluates it.

    Several `config.seeds` get a folder of `workdir` each, which is a run of its own, locked while it is
    trained. Returns the summary that it writes to `summary.json`. The test split is evaluated once, after the
    last step. With `test` "never" it is not evaluated at all; with "every_epoch" also after every epoch, for
    the metrics alone, and the time that this takes does not count.

    Raises:
        UserError: `config`, the data or `workdir` cannot be used, another process trains one of several
            seeds, or the loss is no longer finite.
        StopRun: a signal asked the run to stop; it is saved.
    """
    rules.check(config)
    start = find_start(config, workdir)
    if not config.seeds:
        return Training(start).train([config.seed], [workdir], test)[0]
    make_training = lru_cache(maxsize=1)(partial(Training, start))
    summaries: dict[int, dict[str, Any]] = {}
    groups = group_seeds(config, workdir)
    make_training(len(groups[0])).record_settings(start.config, workdir)
    for group in groups:
        training = make_training(len(group))
        for first in range(0, len(group), training.replicas):
            summaries |= _train_seeds(training, group[first : first + training.replicas], workdir, test)
    summary = summarize_seeds(config.seeds, [summaries[seed] for seed in config.seeds])
    if hosts.is_writer() and read_summary(workdir) != summary:
        write_json(workdir / SUMMARY_FILE, summary)
    return summary


def _train_seeds(
    training: "Training", seeds: Sequence[int], workdir: Path, test: TestLooks
) -> dict[int, dict[str, Any]]:
    """Trains `seeds` at once, each in its folder of `workdir`; returns their summaries by seed."""
    if hosts.is_writer():
        print(f"seed {', '.join(map(str, seeds))}", flush=True)
    workdirs = [seed_workdir(workdir, seed) for seed in seeds]
    with ExitStack() as locks:
        if hosts.is_writer():
            for folder in workdirs:  # Each is a run that could also be trained alone.
                locks.enter_context(locked(folder))
        return dict(zip(seeds, training.train(seeds, workdirs, test), strict=True))


class Training:
    """What runs share that differ in their seed alone: data on the devices and compiled programs.

    `replicas` is the number of seeds that are trained at once.
    """

    def __init__(self, start: Start, replicas: int = 1) -> None:
        """Prepares to train `replicas` seeds at once, or one if their images would be streamed.

        Raises:
            UserError: `start.config` or the data cannot be used.
        """
        self.config = config = start.config
        self._pretrained = start.pretrained
        check_visible_devices(config.gpu.visible_devices)
        check_image_sizes(config)
        make_mesh(config.batch_size, replicas, all_hosts=True)  # A wrong size is refused before any data.
        self._dataset = datasets.load(config.data)
        self._train, self._val = datasets.train_val_split(self._dataset, config.data)
        in_turn = config.seeds_together == "auto" and is_streamed(self._train, config)
        self.replicas = 1 if in_turn else replicas
        self._mesh = make_mesh(config.batch_size, self.replicas, all_hosts=True)
        splits = {"train": self._train, "val": self._val, "test": self._dataset.test}
        self._splits = {name: split for name, split in splits.items() if split is not None}
        self._check_hosts(start.digest)
        table = image_table(self._dataset) if self._dataset.train.files is not None else ""
        self._sources = Sources(self._dataset.train.digest(), table, start.digest)
        per_epoch = steps_per_epoch(self._train, config.batch_size)
        total_steps = config.num_epochs * per_epoch
        self._schedule = Schedule(total_steps, per_epoch, config.batch_size, config.checkpoint)
        host = Host(hosts.is_writer(), hosts.broadcast)
        self._recorder = partial(Recorder, schedule=self._schedule, host=host, of_seeds=bool(config.seeds))

        self._network = make_network(config, len(self._dataset.class_names))
        rates = learning_rate_schedule(
            config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=per_epoch
        )
        self._optimizer = make_optimizer(config.optimizer, config.finetune, self._network.architecture, rates)
        run_steps = make_run_steps(self._network, self._optimizer, rates, config=config, mesh=self._mesh)
        self._run_steps = {
            size: CachedProgram(
                partial(run_steps, image_size=size),
                STEP_METRICS,
                settings_of_step(config, size),
                by_replica(self._mesh),
            )
            for size in image_sizes(config)
        }
        self._predict = make_predictor(self._network, config.batch_size, self._mesh)
        self._permutation = lru_cache(maxsize=1)(self._make_permutation())
        balance = class_weights(self._train.labels, self._network.num_classes, config.loss.class_weights)
        self._data = place(self._train, config, self._mesh, balance)

    def record_settings(self, config: ConfigDict, workdir: Path) -> None:
        """Makes `workdir` and writes `config` to its `config.json`, see `workdir.recorder.record_settings`.

        Raises:
            UserError: a folder cannot be written, or holds a run of other settings or images.
        """
        if hosts.is_writer():
            record_settings(config, self._dataset.class_names, workdir, self._sources)

    def train(
        self, seeds: Sequence[int], workdirs: Sequence[Path], test: TestLooks = "last"
    ) -> list[dict[str, Any]]:
        """Trains as many `seeds` as it was prepared for, all from the same step, each in its own workdir.

        Returns the summaries that it writes; see `train_and_evaluate`.
        """
        for seed, workdir in zip(seeds, workdirs, strict=True):
            self.record_settings(settings.for_seed(self.config, seed), workdir)
        total_steps, per_epoch = self._schedule.total_steps, self._schedule.steps_per_epoch
        splits = [name for name in self._splits if name != "test" or test != "never"]
        with self._recorder(workdirs) as recorder, ExitStack() as stack:
            states, step = recorder.restore([*map(self._init_state, seeds)], own_sharding(self._mesh))
            state = stack_states(states, self._mesh)
            if step == total_steps and self._are_finished(old := recorder.read_summaries(), splits):
                return old
            if step < total_steps:
                arguments = self._abstract_arguments(state, step, seeds)
                self._program(step).prepare(*arguments)  # It compiles while hands are drawn.
                stack.callback(self._data.close)
                self._data.start(seeds[0], step)
                state, _, _ = self._run_call(state, step, seeds, count=0)
            recorder.open_metrics(step)
            with Signals() as signals, ProgressBar(total_steps, step) as bar:
                while step < total_steps:
                    if signum := signals.agreed():
                        recorder.save(step, own_copy(self._unstack(state)))
                        raise StopRun(signum)
                    count = steps_of_call(step, per_epoch, self.config)
                    state, history, times = self._run_call(state, step, seeds, count)
                    metrics = recorder.record_steps(step, history, times)
                    # The steps of larger images compile beside the others, after the first of them.
                    self._program(total_steps - 1).prepare(*arguments)
                    step += count
                    rate = count * self.config.batch_size * len(seeds) / times.seconds
                    left = steps_left(step, total_steps, self.config) * times.seconds / count
                    bar.update(step, step / per_epoch, metrics, rate=rate, seconds_left=left)
                    if step % per_epoch == 0:
                        self._evaluate_epoch(state, step, recorder=recorder, bar=bar, test=test)
                    if recorder.is_save_due(step):
                        recorder.save(step, own_copy(self._unstack(state)))
                recorder.wait()
            return recorder.write_summaries(self._summarize(state, splits))

    def _check_hosts(self, weights: str) -> None:
        """Checks that all hosts have the same images and initial `weights`, by their digest.

        Raises:
            UserError: they do not.
        """
        if hosts.count() > 1:
            digests = {f"{name} images": split.digest() for name, split in self._splits.items()}
            hosts.agree("data", digests | {"initial weights": weights})

    def _make_permutation(self) -> Callable[[tuple[int, ...], int], jax.Array]:
        """Returns the function of seeds and epoch that gives the order of the images, on the devices."""
        permute = make_epoch_order(self._train.labels, self.config.data.sampling)
        if has_replicas(self._mesh):
            permute = jax.vmap(permute, in_axes=(0, None))
        jitted = jax.jit(permute, out_shardings=by_replica(self._mesh))
        return lambda seeds, epoch: jitted(self._seed_array(seeds), epoch)

    def _seed_array(self, seeds: Sequence[int]) -> np.ndarray | np.uint32:
        return np.array(seeds, np.uint32) if has_replicas(self._mesh) else np.uint32(seeds[0])

    def _init_state(self, seed: int) -> TrainState:
        init_head = self.config.init_head
        weights = initial_weights(self._network, self._pretrained, init_head=init_head, seed=seed)
        return init_state(weights, self._optimizer, with_average=self.config.ema_decay > 0)

    def _program(self, step: int) -> CachedProgram:
        """Returns the program of the step after `step`."""
        return self._run_steps[image_size_of_step(step, self._schedule.total_steps, self.config)]

    def _abstract_arguments(self, state: TrainState, step: int, seeds: Sequence[int]) -> tuple[Any, ...]:
        """Returns the shapes of what the steps after `step` are called with, before any image is loaded."""
        permutation = self._permutation(tuple(seeds), step // self._schedule.steps_per_epoch)
        state, permutation = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding),
            (state, permutation),
        )
        return state, self._data.abstract(), permutation, self._seed_array(seeds), 0

    def _run_call(
        self, state: TrainState, step: int, seeds: Sequence[int], count: int
    ) -> tuple[TrainState, dict[str, np.ndarray], CallTimes]:
        """Makes `count` steps after `step`; returns the state, metrics [seeds, steps] and what they took."""
        permutation = self._permutation(tuple(seeds), step // self._schedule.steps_per_epoch)
        started = time.perf_counter()
        images = self._data.batches(step)
        loaded = time.perf_counter()
        state, history = self._program(step)(state, images, permutation, self._seed_array(seeds), count)
        arrays = {
            name: np.asarray(values).reshape(len(seeds), -1)[:, :count] for name, values in history.items()
        }
        waiting = loaded - started if self._data.is_streamed else None
        return state, arrays, CallTimes(time.perf_counter() - started, waiting)

    def _unstack(self, part: Any) -> list[Any]:
        """Returns the state of every seed, or the same part of every state."""
        return unstack_states(part, self.replicas, self._mesh)

    def _evaluate(self, weights: Weights, split: Split) -> list[dict[str, float]]:
        """Returns the metrics of every seed on `split`."""
        return evaluate_seeds(self._predict, self._unstack(weights), split)

    def _evaluate_epoch(
        self, state: TrainState, step: int, *, recorder: Recorder, bar: ProgressBar, test: TestLooks
    ) -> None:
        """Validates at the end of an epoch, if there are validation images, and tests if asked to."""
        if self._val is not None:
            metrics = self._evaluate(state.averaged, self._val)
            recorder.record_validation(step, metrics)
            if state.ema:
                recorder.record(step, "val_raw", self._evaluate(state.weights, self._val))
            bar.note(step / self._schedule.steps_per_epoch, "validation", mean_and_std(metrics)["mean"])
        if test == "every_epoch" and self._dataset.test is not None:
            with recorder.paused_clock():
                recorder.record(step, "test", self._evaluate(state.averaged, self._dataset.test))

    def _about(self) -> dict[str, Any]:
        """Returns what the summaries of all seeds have in common, besides versions and devices."""
        return {
            "epochs": self.config.num_epochs,
            "steps": self._schedule.total_steps,
            "prediction": settings.prediction(self.config),
        }

    def _are_finished(self, summaries: Sequence[Mapping[str, Any]], splits: Collection[str]) -> bool:
        """Whether earlier starts have written `summaries` of this training, on all of `splits`."""
        has_average = self.config.ema_decay > 0
        return all(
            self._about().items() <= summary.items()
            and set(splits) <= summary.keys()
            and (not has_average or set(splits) <= summary.get("ema", {}).keys())
            for summary in summaries
        )

    def _summarize(self, state: TrainState, splits: Collection[str]) -> list[dict[str, Any]]:
        """Evaluates the final weights on all of `splits`."""
        kinds = {"raw": state.weights} | ({"ema": state.ema} if state.ema else {})
        scores: dict[str, dict[str, list[dict[str, float]]]] = {kind: {} for kind in kinds}
        for name in splits:
            split = datasets.at_image_size(self._splits[name], self.config.data)
            for kind, weights in kinds.items():
                scores[kind][name] = self._evaluate(weights, split)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // self.replicas
        return make_summaries(
            scores, parameters=parameters, device=describe_devices(self._mesh), about=self._about()
        )
