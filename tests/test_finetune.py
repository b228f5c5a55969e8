"""Starting from other weights: what moves, how far, and what stays as it is."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import settings
from configs import default, finetune
from errors import UserError
from optimizer import make_optimizer, update_scales
from resnet.checkpoint import Checkpoints
from resnet.network import Network, Weights
from resnet.pretrained import read_pretrained
from train import init_state, make_train_step, train_and_evaluate

# Compiling takes nearly all of these tests' time: little optimisation makes it several times faster.
quick_jit = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)


def config_of(**fields: object):
    config = default.get_config()
    config.compute_dtype = "float32"
    config.model.update({"depth": 18, "width": 4, "convolution": "lax"})
    config.augment.update(dict.fromkeys(config.augment, 0.0))
    config.update_from_flattened_dict(fields)
    return config


def after_one_step(config) -> tuple[Weights, Weights]:
    network = Network(config, 6)
    optimizer = make_optimizer(config, optax.constant_schedule(1e-2))
    state = init_state(network, optimizer, config)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    step = quick_jit(make_train_step(network, optimizer, config))
    after, _ = step(state, images, np.arange(8, dtype=np.int32) % 6, jax.random.key(0))
    return state.weights, after.weights


def moved(before: Weights, after: Weights) -> set[str]:
    old, new = before.named(), after.named()
    return {name for name in old if not np.array_equal(old[name], new[name])}


@pytest.mark.parametrize("frozen", [1, 3, 5])
def test_frozen_parts_keep_weights_and_statistics(frozen: int) -> None:
    names = moved(*after_one_step(config_of(**{"finetune.frozen": frozen, "model.zero_init_last": False})))
    parts = ("stem", "stage1", "stage2", "stage3", "stage4", "head")
    assert {part for part in parts for name in names if name.startswith(part)} == set(parts[frozen:])


def test_a_network_of_three_stages_has_one_part_less_to_freeze() -> None:
    frozen = {"model.depth": 20, "finetune.frozen": 4}
    assert moved(*after_one_step(config_of(**frozen))) == {"head.kernel", "head.bias"}
    with pytest.raises(UserError) as refused:
        after_one_step(config_of(**frozen | {"finetune.frozen": 5}))
    assert str(refused.value) == (
        "config.finetune.frozen=5: the stem, 3 stages and the head are all of a network of depth 20, and"
        " nothing would move; expected at most 4"
    )


def test_frozen_norms_keep_all_that_they_have() -> None:
    names = moved(*after_one_step(config_of(**{"finetune.freeze_norm": True, "model.zero_init_last": False})))
    assert not {name for name in names if "norm" in name}
    assert {"stem_conv.kernel", "stage4.block2.conv2.kernel", "head.kernel", "head.bias"} <= names


def test_updates_are_smaller_the_further_from_the_head() -> None:
    config = config_of(**{"finetune.layer_decay": 0.5, "finetune.frozen": 1})
    scales = Weights(update_scales(Network(config, 6).init(0).params, config), {}).named()
    assert scales["head.kernel"] == 1
    assert scales["stage4.block1.conv1.kernel"] == 0.5
    assert scales["stage1.block2.norm2.bias"] == 0.5**4
    assert scales["stem_conv.kernel"] == 0


def test_layer_decay_scales_the_step_of_sgd() -> None:
    fields = {"optimizer.name": "sgd", "optimizer.weight_decay": 0.0, "model.zero_init_last": False}
    runs = [after_one_step(config_of(**fields, **{"finetune.layer_decay": d})) for d in (1.0, 0.5)]
    for name, share in {
        "head.kernel": 1,
        "stage4.block2.conv1.kernel": 0.5,
        "stem_conv.kernel": 0.5**5,
    }.items():
        full, less = (after.named()[name] - before.named()[name] for before, after in runs)
        np.testing.assert_allclose(less, share * full, rtol=1e-2, atol=1e-3 * abs(full).max() * share)


def test_a_run_goes_on_from_another_run(tmp_path: Path) -> None:
    fields = {
        "data.name": "rendered",
        "data.image_size": 32,
        "data.train_size": 24,
        "data.test_size": 12,
        "num_epochs": 1,
        "batch_size": 12,
        "checkpoint.every_minutes": 0.0,
    }
    other = config_of(**fields, **{"data.mean": (0.4, 0.4, 0.4), "ema_decay": 0.0, "seed": 3})
    settings.save(other, tuple("012345"), tmp_path / "first")
    with Checkpoints(tmp_path / "first") as checkpoints:
        checkpoints.save(0, Network(other, 6).init(3)._asdict(), {}, None)
    first = read_pretrained(tmp_path / "first")
    config = config_of(**fields, init_from=str(tmp_path / "first"))
    config.model.depth = 50
    config.optimizer.learning_rate = 0.0
    train_and_evaluate(config, tmp_path / "second")
    stored, _ = settings.load(tmp_path / "second")
    assert (stored.model.depth, stored.data.mean) == (18, (0.4, 0.4, 0.4))
    second = read_pretrained(tmp_path / "second")
    for name, array in first.weights.named().items():
        if not name.endswith((".mean", ".var")):
            np.testing.assert_allclose(second.weights.named()[name], array, atol=1e-6, err_msg=name)


def test_missing_weights_are_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file"):
        train_and_evaluate(config_of(init_from=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_config_of_finetuning_is_valid() -> None:
    settings.check(finetune.get_config())
