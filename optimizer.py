"""The optimizer of `config.optimizer`: learning rates, weight decay, and the parts that fine-tuning slows."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from errors import UserError
from resnet.architecture import Architecture
from resnet.network import Tree


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
    """The optimizer of `config.optimizer`; weight decay touches kernels alone.

    Raises:
        UserError: `config.finetune.frozen` leaves nothing to train.
    """
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
    chain = [*clip, *direction, optax.scale_by_learning_rate(schedule)]
    finetune, parts = config.finetune, _stages(config) + 2
    if finetune.frozen >= parts:
        raise UserError(
            f"config.finetune.frozen={finetune.frozen}: the stem, {parts - 2} stages and the head are all of"
            f" a network of depth {config.model.depth}, and nothing would move; expected at most {parts - 1}"
        )
    if finetune.frozen or finetune.layer_decay != 1 or finetune.freeze_norm:
        chain.append(_scale_by_part(config))
    return optax.chain(*chain)


def update_scales(params: Tree, config: ConfigDict) -> Tree:
    """What each parameter's update is multiplied by: 0 where it is frozen, less the further from the head.

    Layer-wise decay as in Howard & Ruder 2018 (arXiv:1801.06146), section 3.2, and Clark et al. 2020
    (arXiv:2003.10555). The final norm of pre-activation counts as part of the last stage.
    """
    stages = _stages(config)

    def scale(path: tuple, _: Any) -> float:
        names = [key.key for key in path]
        first = names[0]
        if first.startswith("stem"):
            part = 0
        elif first.startswith("stage"):
            part = int(first.removeprefix("stage"))
        else:
            part = stages if first == "final_norm" else stages + 1
        is_norm = any("norm" in name for name in names)
        if part < config.finetune.frozen or (is_norm and config.finetune.freeze_norm):
            return 0.0
        return config.finetune.layer_decay ** (stages + 1 - part)

    return jax.tree_util.tree_map_with_path(scale, params)


def _stages(config: ConfigDict) -> int:
    return len(Architecture.from_config(config.model).blocks)


def _scale_by_part(config: ConfigDict) -> optax.GradientTransformation:
    def update(updates: Tree, state: optax.OptState, params: Tree | None = None) -> tuple[Tree, Any]:
        scales = update_scales(updates, config)
        return jax.tree.map(lambda update, scale: update * scale, updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _kernels(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
