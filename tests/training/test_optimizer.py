"""Optimizers, schedule and training step against recurrences in NumPy, in float64; what fine-tuning moves."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import default
from resnet.architecture import Architecture
from resnet.checkpoint import Checkpoints
from resnet.errors import UserError
from resnet.network import Weights
from tests.quick_compilation import quick_jit
from tests.runs import small_config, without_augmentation
from train import TrainState, init_state, make_loss, make_train_step
from training.network import make_network
from training.optimizer import learning_rate_schedule, make_optimizer, update_scales

STEPS = 6


def config_with(**optimizer: object) -> ConfigDict:
    """Adam without decay, clipping, smoothing, moving average or augmentation, but for `optimizer`."""
    config = default.get_config()
    config.optimizer.update(name="adam", weight_decay=0.0, schedule="constant", warmup_epochs=0.0)
    config.optimizer.update(optimizer)
    config.label_smoothing = config.ema_decay = 0.0
    return without_augmentation(config)


# Optimizers

PARAMS = {"conv": {"kernel": np.float32([[0.5, -2.0]])}, "norm": {"scale": np.float32([1.5])}}


def gradients_of_step(step: int) -> dict:
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), PARAMS)


def learning_rate(step: int) -> float:
    return 0.1 / (step + 1)


def parameters_after_steps(config: ConfigDict) -> dict[str, np.ndarray]:
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), learning_rate)
    params, state = PARAMS, optimizer.init(PARAMS)
    for step in range(STEPS):
        updates, state = optimizer.update(gradients_of_step(step), state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return {"kernel": params["conv"]["kernel"], "scale": params["norm"]["scale"]}


def recurrence(update: object, decayed: float, clip_norm: float = np.inf) -> dict[str, np.ndarray]:
    """Parameters after `update(p, g, memory, step, decay)` at every step, weight decay on kernels alone."""
    params = {"kernel": PARAMS["conv"]["kernel"], "scale": PARAMS["norm"]["scale"]}
    params = {name: value.astype(np.float64) for name, value in params.items()}
    memory: dict[str, dict] = {name: {"is_kernel": name == "kernel"} for name in params}
    for step in range(STEPS):
        tree = gradients_of_step(step)
        gradients = {"kernel": tree["conv"]["kernel"], "scale": tree["norm"]["scale"]}
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
        for name, p in params.items():
            g = gradients[name].astype(np.float64) * min(1, clip_norm / norm)
            decay = decayed if name == "kernel" else 0.0
            params[name] = p - learning_rate(step) * update(p, g, memory[name], step, decay)
    return params


def sgd(p: np.ndarray, g: np.ndarray, memory: dict, step: int, decay: float) -> np.ndarray:
    """Nesterov's momentum as Sutskever et al. 2013 rewrite it, with L2 decay inside the gradient."""
    g = g + decay * p
    memory["v"] = 0.8 * memory.get("v", 0) + g
    return g + 0.8 * memory["v"]


def adam(p: np.ndarray, g: np.ndarray, memory: dict, step: int, decay: float) -> np.ndarray:
    """Kingma & Ba 2015, algorithm 1, with L2 decay inside the gradient."""
    g = g + decay * p
    memory["m"] = 0.7 * memory.get("m", 0) + 0.3 * g
    memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g**2
    m, v = memory["m"] / (1 - 0.7 ** (step + 1)), memory["v"] / (1 - 0.95 ** (step + 1))
    return m / (np.sqrt(v) + 1e-3)


def adamw(p: np.ndarray, g: np.ndarray, memory: dict, step: int, decay: float) -> np.ndarray:
    """Loshchilov & Hutter 2019: the decay beside Adam's direction."""
    return adam(p, g, memory, step, 0.0) + decay * p


def momentum(p: np.ndarray, g: np.ndarray, memory: dict, step: int, decay: float) -> np.ndarray:
    """Polyak's momentum, with L2 decay inside the gradient."""
    memory["v"] = 0.8 * memory.get("v", 0) + g + decay * p
    return memory["v"]


def lamb(p: np.ndarray, g: np.ndarray, memory: dict, step: int, decay: float) -> np.ndarray:
    """You et al. 2020, algorithm 2, with the identity for phi; norms and biases keep Adam's length."""
    update = adamw(p, g, memory, step, decay)
    return update * np.linalg.norm(p) / np.linalg.norm(update) if memory["is_kernel"] else update


def lion(p: np.ndarray, g: np.ndarray, memory: dict, step: int, decay: float) -> np.ndarray:
    """Chen et al. 2023, algorithm 2."""
    m = memory.get("m", 0)
    memory["m"] = 0.95 * m + 0.05 * g
    return np.sign(0.7 * m + 0.3 * g) + decay * p


@pytest.mark.parametrize("clip_norm", [0.0, 0.7])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("update", [sgd, momentum, adam, adamw, lamb, lion])
def test_optimizers_follow_their_recurrences(update: object, decay: float, clip_norm: float) -> None:
    config = config_with(
        name="sgd" if update is momentum else update.__name__, nesterov=update is not momentum, momentum=0.8,
        b1=0.7, b2=0.95, epsilon=1e-3, weight_decay=decay, clip_norm=clip_norm,
    )  # fmt: skip
    actual = parameters_after_steps(config)
    expected = recurrence(update, decay, clip_norm or np.inf)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, err_msg=name)


def test_every_kernel_of_a_network_decays_and_nothing_else() -> None:
    config = config_with(name="adamw", weight_decay=0.5)
    config.model.update(depth=18, width=2)
    network = make_network(config, 6)
    params = network.init(0).params
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, lambda step: 0.1)
    zeros = jax.tree.map(np.zeros_like, params)
    updates = jax.jit(lambda params: optimizer.update(zeros, optimizer.init(params), params)[0])(params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        leaf = params
        for key in path:
            leaf = leaf[key.key]
        kernel = path[-1].key == "kernel"
        np.testing.assert_allclose(update, -0.05 * leaf if kernel else np.zeros_like(leaf), rtol=1e-5)


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Jordan et al. 2024: five steps towards the orthogonal matrix with the same singular vectors."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (1, 1, 4, 12)])
def test_muon_takes_a_kernel_as_a_matrix(shape: tuple[int, ...], nesterov: bool) -> None:
    config = config_with(name="muon", momentum=0.8, nesterov=nesterov, weight_decay=0.3)
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), learning_rate)
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape).astype(np.float32)
    params = {"conv": {"kernel": kernel}}
    state, average = optimizer.init(params), 0.0
    for step in range(3):
        gradient = rng.standard_normal(shape).astype(np.float32)
        updates, state = optimizer.update({"conv": {"kernel": gradient}}, state, params)
        # The average without its bias to zero, as in Adam; Nesterov's looks one step ahead.
        average = 0.8 * average + 0.2 * gradient
        direction = average / (1 - 0.8 ** (step + 1))
        if nesterov:
            ahead = average / (1 - 0.8 ** (step + 2))
            direction = 0.8 * ahead + 0.2 * gradient / (1 - 0.8 ** (step + 1))
        matrix = newton_schulz(direction.reshape(-1, shape[-1]).astype(np.float64))
        expected = 0.2 * np.sqrt(max(matrix.shape)) * matrix.reshape(shape) + 0.3 * kernel
        expected *= -learning_rate(step)
        np.testing.assert_allclose(updates["conv"]["kernel"], expected, rtol=1e-3, atol=1e-4)
        # What makes one learning rate do for all shapes: every entry moves by 0.2, as large as with Adam.
        moved = -updates["conv"]["kernel"] / learning_rate(step) - 0.3 * kernel
        assert 0.14 < np.sqrt((moved**2).mean()) < 0.24


def test_muon_leaves_the_head_and_the_norms_to_adam() -> None:
    config = config_with(name="muon", b1=0.7, b2=0.95, epsilon=1e-3, weight_decay=0.3)
    actual, expected = parameters_after_steps(config), recurrence(adamw, 0.3)
    for name, value in expected.items():  # This kernel has two dimensions, as that of a head.
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, err_msg=name)


# Several batches for one update


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "muon"])
def test_several_batches_make_the_update_of_their_mean_gradient(name: str) -> None:
    config = config_with(name=name, weight_decay=0.3, clip_norm=0.7, accumulate=3)
    actual = parameters_after_steps(config)
    config.optimizer.accumulate = 1
    optimizer = make_optimizer(
        config.optimizer, config.finetune, Architecture(), lambda update: learning_rate(3 * update)
    )
    params, state = PARAMS, optimizer.init(PARAMS)
    for first in range(0, STEPS, 3):
        gradients = map(gradients_of_step, range(first, first + 3))
        mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *gradients)
        updates, state = optimizer.update(mean, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    np.testing.assert_allclose(actual["kernel"], params["conv"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(actual["scale"], params["norm"]["scale"], rtol=1e-5)


def test_parameters_rest_until_all_batches_of_an_update_are_there() -> None:
    config = config_with(name="adamw", weight_decay=0.3, accumulate=STEPS + 1)
    np.testing.assert_array_equal(parameters_after_steps(config)["kernel"], PARAMS["conv"]["kernel"])


def test_a_training_too_short_for_one_update_is_refused() -> None:
    config = config_with(accumulate=9)
    with pytest.raises(UserError) as refused:
        schedule_of(config, num_epochs=2)
    assert str(refused.value) == (
        "config.optimizer.accumulate=9: the training has 8 batches, too few for one update; expected at most"
        " 8, or more epochs"
    )
    config.optimizer.accumulate = 8
    schedule_of(config, num_epochs=2)


def test_seeds_are_updated_together_as_alone() -> None:
    config = config_with(name="muon", weight_decay=0.3, accumulate=2)
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), learning_rate)
    kernels, gradients = np.random.default_rng(0).standard_normal((2, 2, 3, 3, 2, 4), np.float32)

    def second_update(kernel: np.ndarray, gradient: np.ndarray) -> jax.Array:
        params, updates = {"conv": {"kernel": kernel}}, {"conv": {"kernel": gradient}}
        _, state = optimizer.update(updates, optimizer.init(params), params)
        return optimizer.update(updates, state, params)[0]["conv"]["kernel"]

    together = quick_jit(jax.vmap(second_update))(kernels, gradients)
    alone = quick_jit(second_update)
    for seed in range(2):
        np.testing.assert_allclose(
            together[seed], alone(kernels[seed], gradients[seed]), rtol=1e-4, atol=1e-6
        )


# Schedule


def schedule_of(config: ConfigDict, num_epochs: int) -> optax.Schedule:
    return learning_rate_schedule(config.optimizer, num_epochs=num_epochs, steps_per_epoch=4)


def test_warmup_and_cosine() -> None:
    config = config_with(schedule="cosine", learning_rate=0.4, warmup_epochs=2.5)
    schedule = schedule_of(config, num_epochs=10)  # 10 steps of warm-up, 30 of cosine
    expected = {0: 0.0, 5: 0.2, 9: 0.36, 10: 0.4, 25: 0.2, 40: 0.0}
    for step, value in expected.items():
        np.testing.assert_allclose(schedule(step), value, atol=1e-7)
    for step in range(10, 40):
        np.testing.assert_allclose(
            schedule(step), 0.2 * (1 + np.cos(np.pi * (step - 10) / 30)), rtol=1e-4, atol=1e-7
        )


def test_cosine_without_warmup() -> None:
    config = config_with(schedule="cosine", learning_rate=0.4)
    schedule = schedule_of(config, num_epochs=5)
    np.testing.assert_allclose([schedule(step) for step in (0, 10, 20)], [0.4, 0.2, 0.0], atol=1e-7)


def test_constant_with_warmup() -> None:
    config = config_with(schedule="constant", learning_rate=0.4, warmup_epochs=1.0)
    schedule = schedule_of(config, num_epochs=40)
    np.testing.assert_allclose([schedule(step) for step in (0, 1, 4, 99)], [0.0, 0.1, 0.4, 0.4], rtol=1e-6)


def test_linear_with_warmup() -> None:
    config = config_with(schedule="linear", learning_rate=0.4, warmup_epochs=2.0)
    schedule = schedule_of(config, num_epochs=10)  # 8 steps of warm-up, 32 to zero
    expected = {0: 0.0, 4: 0.2, 8: 0.4, 16: 0.3, 24: 0.2, 39: 0.0125, 40: 0.0}
    np.testing.assert_allclose([schedule(step) for step in expected], list(expected.values()), atol=1e-7)


@pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
def test_milestones_are_shares_of_the_whole_training(warmup_epochs: float) -> None:
    config = config_with(
        schedule="multistep", learning_rate=0.4, warmup_epochs=warmup_epochs, milestones=(0.5, 0.75)
    )
    schedule = schedule_of(config, num_epochs=10)  # 40 steps
    expected = {8: 0.4, 19: 0.4, 20: 0.04, 29: 0.04, 30: 0.004, 39: 0.004}
    np.testing.assert_allclose([schedule(step) for step in expected], list(expected.values()), rtol=1e-6)
    assert schedule(4) == np.float32(0.2 if warmup_epochs else 0.4)
    config.optimizer.milestones = (0.5, 0.5)
    np.testing.assert_allclose(schedule_of(config, num_epochs=10)(20), 0.004, rtol=1e-6)


def test_warmup_longer_than_the_run() -> None:
    config = config_with(schedule="cosine", learning_rate=0.4, warmup_epochs=4.0)
    schedule = schedule_of(config, num_epochs=2)
    np.testing.assert_allclose([schedule(step) for step in (0, 4, 7)], [0.0, 0.1, 0.175], rtol=1e-6)


# The training step, on a network small enough for its gradient to be written out


def apply_linear(
    weights: Weights, images: jax.Array, train: bool, key: jax.Array
) -> tuple[jax.Array, dict, dict]:
    """Two linear maps of each image's mean colour; the statistics move half-way to the batch's mean."""
    assert train
    colour = images.astype(jnp.float32).mean((1, 2)) / 255
    hidden = colour @ weights.params["stem_conv"]["kernel"]
    logits = hidden @ weights.params["head"]["kernel"] + weights.params["head"]["bias"]
    return logits, {}, {"mean": (weights.batch_stats["mean"] + colour.mean(0)) / 2}


def initial_weights(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    params = {
        "stem_conv": {"kernel": rng.standard_normal((3, 5), np.float32)},
        "head": {"kernel": rng.standard_normal((5, 6), np.float32), "bias": np.zeros(6, np.float32)},
    }
    return Weights(params, {"mean": np.zeros(3, np.float32)})


NETWORK = SimpleNamespace(apply=apply_linear, num_classes=6)


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (7, 2, 2, 3), np.uint8), rng.integers(0, 6, 7, np.int32)


def step_in_numpy(
    weights: Weights, images: np.ndarray, labels: np.ndarray, config: ConfigDict
) -> tuple[Weights, dict[str, float]]:
    """One step of plain gradient descent."""
    stem, head = weights.params["stem_conv"]["kernel"], weights.params["head"]["kernel"]
    bias, l2 = weights.params["head"]["bias"], config.optimizer.l2_stem_and_head
    colour = images.mean((1, 2)) / 255
    logits = colour @ stem @ head + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (1 - config.label_smoothing) * np.eye(6)[labels] + config.label_smoothing / 6
    loss = -(targets * np.log(probabilities)).sum(1).mean() + l2 * ((stem**2).sum() + (head**2).sum())
    error = (probabilities - targets) / len(labels)
    to_head, to_bias = (colour @ stem).T @ error + 2 * l2 * head, error.sum(0)
    to_stem = colour.T @ (error @ head.T) + 2 * l2 * stem
    rate = config.optimizer.learning_rate
    params = {
        "stem_conv": {"kernel": stem - rate * to_stem},
        "head": {"kernel": head - rate * to_head, "bias": bias - rate * to_bias},
    }
    metrics = {
        "loss": loss,
        "accuracy": (logits.argmax(1) == labels).mean(),
        "gradient_norm": np.sqrt(sum((g**2).sum() for g in (to_head, to_bias, to_stem))),
    }
    return Weights(params, {"mean": (weights.batch_stats["mean"] + colour.mean(0)) / 2}), metrics


def assert_close(actual: Weights, expected: Weights) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), actual, expected)


@pytest.mark.parametrize(
    ("smoothing", "l2", "ema_decay"), [(0.0, 0.0, 0.0), (0.2, 0.0, 0.0), (0.0, 0.03, 0.0), (0.1, 0.01, 0.3)]
)
def test_training_step(smoothing: float, l2: float, ema_decay: float) -> None:
    config = config_with(name="sgd", momentum=0.0, learning_rate=0.5, l2_stem_and_head=l2)
    config.label_smoothing, config.ema_decay = smoothing, ema_decay
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), lambda step: 0.5)
    train_step = jax.jit(make_train_step(NETWORK, optimizer, config))
    state = init_state(initial_weights(config.seed), optimizer, with_average=ema_decay > 0)
    weights = jax.tree.map(np.float64, initial_weights(config.seed))
    assert_close(state.weights, weights)
    average = weights
    for step in range(1, STEPS + 1):
        images, labels = batch(step)
        state, metrics = train_step(state, images, labels, jax.random.key(0))
        weights, expected = step_in_numpy(weights, images, labels, config)
        assert_close(state.weights, weights)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
        assert int(state.step) == step
        # Of the weights and the statistics. The 0.3 of the last case is reached in the course of these steps.
        kept = min(ema_decay, step / (step + 9))
        average = jax.tree.map(lambda a, w, kept=kept: kept * a + (1 - kept) * w, average, weights)
        if ema_decay:
            assert_close(state.ema, average)
        else:
            assert state.ema is None


def test_moving_average_does_not_share_memory_with_the_weights() -> None:
    config = config_with()
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), lambda step: 0.1)
    state = init_state(initial_weights(0), optimizer, with_average=True)
    assert isinstance(state, TrainState)
    for raw, average in zip(jax.tree.leaves(state.weights), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(raw, average)
        assert not np.shares_memory(raw, average)


def test_l2_reaches_the_kernels_of_a_real_network() -> None:
    config = small_config(compute_dtype="float32", label_smoothing=0.0)
    network = make_network(config, 6)
    weights = network.init(0)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    losses = []
    for config.optimizer.l2_stem_and_head in (0.0, 0.5):
        loss = quick_jit(make_loss(network, config))
        losses.append(loss(*weights, images, np.eye(6, dtype=np.float32)[:4], None, jax.random.key(0))[0])
    kernels = weights.params["stem_conv"]["kernel"], weights.params["head"]["kernel"]
    squares = sum(float((kernel.astype(np.float64) ** 2).sum()) for kernel in kernels)
    assert losses[1] - losses[0] == pytest.approx(0.5 * squares, rel=1e-4)


# Fine-tuning: which parts move, and how far


def finetuning(**fields: object) -> ConfigDict:
    """Returns the config of a small network with `fields`, without augmentation."""
    return without_augmentation(small_config(compute_dtype="float32", **fields))


def after_one_step(config: ConfigDict) -> tuple[Weights, Weights]:
    """Returns the weights before and after a step."""
    network = make_network(config, 6)
    optimizer = make_optimizer(
        config.optimizer, config.finetune, network.architecture, optax.constant_schedule(1e-2)
    )
    state = init_state(network.init(config.seed), optimizer, with_average=True)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    step = quick_jit(make_train_step(network, optimizer, config))
    after, _ = step(state, images, np.arange(8, dtype=np.int32) % 6, jax.random.key(0))
    return state.weights, after.weights


def moved(before: Weights, after: Weights) -> set[str]:
    """Returns the names of the arrays that differ."""
    old, new = before.named(), after.named()
    return {name for name in old if not np.array_equal(old[name], new[name])}


@pytest.mark.parametrize("frozen", [1, 3, 5])
def test_frozen_parts_keep_weights_and_statistics(frozen: int) -> None:
    names = moved(*after_one_step(finetuning(**{"finetune.frozen": frozen, "model.zero_init_last": False})))
    parts = ("stem", "stage1", "stage2", "stage3", "stage4", "head")
    assert {part for part in parts for name in names if name.startswith(part)} == set(parts[frozen:])


def test_a_network_of_three_stages_has_one_part_less_to_freeze() -> None:
    frozen = {"model.depth": 20, "finetune.frozen": 4}
    assert moved(*after_one_step(finetuning(**frozen))) == {"head.kernel", "head.bias"}
    with pytest.raises(UserError) as refused:
        after_one_step(finetuning(**frozen | {"finetune.frozen": 5}))
    assert str(refused.value) == (
        "config.finetune.frozen=5: the stem, 3 stages and the head are all of a network of depth 20, and"
        " nothing would move; expected at most 4"
    )


def test_frozen_norms_keep_all_that_they_have() -> None:
    names = moved(
        *after_one_step(finetuning(**{"finetune.freeze_norm": True, "model.zero_init_last": False}))
    )
    assert not {name for name in names if "norm" in name}
    assert {"stem_conv.kernel", "stage4.block2.conv2.kernel", "head.kernel", "head.bias"} <= names


def test_updates_are_smaller_the_further_from_the_head() -> None:
    config = finetuning(**{"finetune.layer_decay": 0.5, "finetune.frozen": 1})
    params = make_network(config, 6).init(0).params
    scales = Weights(update_scales(params, config.finetune, stages=4), {}).named()
    assert scales["head.kernel"] == 1
    assert scales["stage4.block1.conv1.kernel"] == 0.5
    assert scales["stage1.block2.norm2.bias"] == 0.5**4
    assert scales["stem_conv.kernel"] == 0


def test_layer_decay_scales_the_step_of_sgd() -> None:
    fields = {"optimizer.name": "sgd", "optimizer.weight_decay": 0.0, "model.zero_init_last": False}
    runs = [after_one_step(finetuning(**fields, **{"finetune.layer_decay": d})) for d in (1.0, 0.5)]
    for name, share in {
        "head.kernel": 1,
        "stage4.block2.conv1.kernel": 0.5,
        "stem_conv.kernel": 0.5**5,
    }.items():
        full, less = (after.named()[name] - before.named()[name] for before, after in runs)
        np.testing.assert_allclose(less, share * full, rtol=1e-2, atol=1e-3 * abs(full).max() * share)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_frozen_parameters_have_no_state(name: str, accumulate: int) -> None:
    config = finetuning(
        **{"optimizer.name": name, "optimizer.accumulate": accumulate, "finetune.freeze_norm": True}
    )
    network = make_network(config, 6)
    params = network.init(0).params
    head = sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    norms = sum(leaf.size for name, leaf in Weights(params, {}).named().items() if "norm" in name)
    everything = sum(leaf.size for leaf in jax.tree.leaves(params))
    # Momentum alone, or both moments; Muon has both for the head, but the momentum alone for convolutions.
    moments = {"sgd": (1, 1), "adamw": (2, 2), "muon": (1, 2)}[name]
    for frozen, convolutions in {5: 0, 0: everything - head - norms}.items():
        config.finetune.frozen = frozen
        optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, learning_rate)
        state = jax.eval_shape(optimizer.init, params)
        size = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.size > 3)  # without counts
        gradients = (convolutions + head) * (accumulate > 1)
        assert size == moments[0] * convolutions + moments[1] * head + gradients


def test_state_without_frozen_parameters_survives_a_checkpoint(tmp_path: Path) -> None:
    config = finetuning(**{"optimizer.name": "muon", "optimizer.accumulate": 2, "finetune.frozen": 4})
    network = make_network(config, 6)
    params = network.init(0).params
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, learning_rate)
    state = jax.jit(lambda params: optimizer.update(params, optimizer.init(params), params)[1])(params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"opt_state": state}, {}, None)
        checkpoints.wait()
        restored, _ = checkpoints.restore_newest({"opt_state": optimizer.init(params)})
    assert jax.tree.structure(restored["opt_state"]) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored["opt_state"], state)
