"""The optimizer of a config: learning rates, weight decay, and the parts that fine-tuning slows."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.network import Tree


def learning_rate_schedule(optimizer: ConfigDict, *, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the schedule of `config.optimizer`: a linear warm-up from zero, then a cosine or a constant.

    The cosine ends at zero at the last step.
    """
    warmup = round(optimizer.warmup_epochs * steps_per_epoch)
    total = num_epochs * steps_per_epoch
    if optimizer.schedule == "cosine":
        after = optax.cosine_decay_schedule(optimizer.learning_rate, max(total - warmup, 1))
    else:
        after = optax.constant_schedule(optimizer.learning_rate)
    if not warmup:
        return after
    before = optax.linear_schedule(0.0, optimizer.learning_rate, warmup)
    return optax.join_schedules([before, after], [warmup])


def make_optimizer(
    optimizer: ConfigDict, finetune: ConfigDict, architecture: Architecture, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimizer of `config.optimizer` and `config.finetune`; weight decay is for kernels alone.

    Raises:
        UserError: `finetune.frozen` leaves nothing to train.
    """
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
    stages = len(architecture.blocks)
    parts = stages + 2
    if finetune.frozen >= parts:
        raise UserError(
            f"config.finetune.frozen={finetune.frozen}: the stem, {stages} stages and the head are all of"
            f" a network of depth {architecture.depth}, and nothing would move; expected at most {parts - 1}"
        )
    if changes_updates(finetune):
        chain.append(_scale_by_part(finetune, stages))
    return optax.chain(*chain)


def changes_updates(finetune: ConfigDict) -> bool:
    """Whether `config.finetune` freezes or slows any part."""
    return bool(finetune.frozen or finetune.layer_decay != 1 or finetune.freeze_norm)


def update_scales(params: Tree, finetune: ConfigDict, stages: int) -> Tree:
    """Returns the factor of every parameter's update: 0 if it is frozen, less the farther from the head.

    Layer-wise decay as in Howard & Ruder 2018 (arXiv:1801.06146), section 3.2, and Clark et al. 2020
    (arXiv:2003.10555). The final norm of pre-activation counts as part of the last of the `stages`.
    """

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
        if part < finetune.frozen or (is_norm and finetune.freeze_norm):
            return 0.0
        return finetune.layer_decay ** (stages + 1 - part)

    return jax.tree_util.tree_map_with_path(scale, params)


def _scale_by_part(finetune: ConfigDict, stages: int) -> optax.GradientTransformation:
    def update(updates: Tree, state: optax.OptState, params: Tree | None = None) -> tuple[Tree, Any]:
        scales = update_scales(updates, finetune, stages)
        return jax.tree.map(lambda update, scale: update * scale, updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _kernels(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
