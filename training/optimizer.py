"""The optimizer of a config: learning rates, weight decay, and what fine-tuning slows or freezes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.network import Tree

MAX_STEPS = 2**31 - 1  # Steps are counted in 32 bits.
MUON_UPDATE = 0.2  # root mean square of Muon's updates: that of Adam's in Liu et al. 2025, section 2.2


def learning_rate_schedule(optimizer: ConfigDict, *, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate of a step: a linear warm-up from zero, then the schedule of `optimizer`.

    `optimizer` is `config.optimizer`. A step is a batch, also where the gradients of several batches make one
    update. After the warm-up, `cosine` and `linear` end at zero after the last step. `constant` stays.
    `multistep` multiplies the rate by `decay_factor` at each of `milestones`, which are shares of the whole
    training, warm-up included.

    Raises:
        UserError: the training is shorter than the batches of one update, or has more than `MAX_STEPS`.
    """
    total = num_epochs * steps_per_epoch
    if total > MAX_STEPS:
        raise UserError(
            f"config.num_epochs={num_epochs}: of {steps_per_epoch:,} steps each, expected at most"
            f" {MAX_STEPS:,} steps in all"
        )
    warmup = round(optimizer.warmup_epochs * steps_per_epoch)
    if optimizer.accumulate > total:
        raise UserError(
            f"config.optimizer.accumulate={optimizer.accumulate}: the training has {total} batches, too few"
            f" for one update; expected at most {total}, or more epochs"
        )
    peak, rest = optimizer.learning_rate, max(total - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "multistep": _multistep_schedule(optimizer, total=total, start=warmup),
    }[optimizer.schedule]
    if not warmup:
        return after
    before = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([before, after], [warmup])


def _multistep_schedule(optimizer: ConfigDict, *, total: int, start: int) -> optax.Schedule:
    """Returns the multistep schedule of `total` steps, as a function of the step after `start`."""
    steps = [round(share * total) - start for share in optimizer.milestones]

    def schedule(step: int | jax.Array) -> jax.Array:
        passed = sum(jnp.int32(step >= milestone) for milestone in steps)
        return optimizer.learning_rate * jnp.float32(optimizer.decay_factor) ** passed

    return schedule


def make_optimizer(
    optimizer: ConfigDict, finetune: ConfigDict, architecture: Architecture, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimizer of `config.optimizer` and `config.finetune`.

    `schedule` gives the learning rate of a batch by its number. Weight decay is for kernels alone. Frozen
    parameters do not move and have no state.

    With `optimizer.accumulate` = k, k batches make one update by the mean of their gradients, at the learning
    rate of the first of them. It is the update of one batch of k times the size, except that batch norm
    normalises each batch by itself. The last batches of a training make no update if they are fewer than k.

    Raises:
        UserError: `finetune.frozen` leaves nothing to train.
    """
    stages = len(architecture.blocks)
    _check_something_moves(finetune, architecture)
    batches = optimizer.accumulate
    clip = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    rates = schedule if batches == 1 else lambda update: schedule(update * batches)
    chain = [*clip, *_direction(optimizer), optax.scale_by_learning_rate(rates)]
    if finetune.layer_decay != 1:
        chain.append(_scale_by_part(finetune, stages))
    transformation = optax.chain(*chain)
    if batches > 1:
        transformation = optax.MultiSteps(transformation, batches).gradient_transformation()
    if not (finetune.frozen or finetune.freeze_norm):
        return transformation
    return optax.partition(
        {"trained": transformation, "frozen": optax.set_to_zero()},
        lambda params: jax.tree.map(
            lambda scale: "trained" if scale else "frozen", update_scales(params, finetune, stages)
        ),
    )


def can_be_packed(optimizer: ConfigDict, finetune: ConfigDict) -> bool:
    """Whether the update asks of a parameter only whether it is a kernel, so that `Packing` changes nothing.

    LAMB and Muon look at one layer at a time, and fine-tuning at the part of the network.
    """
    moves_as_one = not (finetune.frozen or finetune.freeze_norm) and finetune.layer_decay == 1
    return moves_as_one and optimizer.name in ("sgd", "adam", "adamw", "lion")


def _check_something_moves(finetune: ConfigDict, architecture: Architecture) -> None:
    stages = len(architecture.blocks)
    parts = stages + 2
    if finetune.frozen >= parts:
        raise UserError(
            f"config.finetune.frozen={finetune.frozen}: the stem, {stages} stages and the head are all of"
            f" a network of depth {architecture.depth}, and nothing would move; expected at most {parts - 1}"
        )


def _direction(optimizer: ConfigDict) -> list[optax.GradientTransformation]:
    """Returns what turns a gradient into an update of learning rate 1.

    SGD with momentum: Sutskever et al. 2013. Adam: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1. AdamW:
    Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2. LAMB: You et al. 2020 (arXiv:1904.00962),
    algorithm 2; norms and biases are not scaled by their length, as in the authors' code and in timm.
    Lion: Chen et al. 2023 (arXiv:2302.06675), algorithm 2. Muon: see `_scale_by_muon`.
    """
    decay = (
        optax.add_decayed_weights(optimizer.weight_decay, mask=_kernels)
        if optimizer.weight_decay
        else optax.identity()
    )
    adam = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.epsilon)
    return {
        "sgd": [decay, optax.trace(optimizer.momentum, nesterov=optimizer.nesterov)],
        "adam": [decay, adam],
        "adamw": [adam, decay],
        "lamb": [adam, decay, optax.masked(optax.scale_by_trust_ratio(), _kernels)],
        "lion": [optax.scale_by_lion(optimizer.b1, optimizer.b2), decay],
        "muon": [_scale_by_muon(optimizer, adam), decay],
    }[optimizer.name]


def _scale_by_muon(optimizer: ConfigDict, adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns Muon for the kernels of all convolutions, and `adam` for everything else.

    Muon makes the momentum of a matrix nearly orthogonal: Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon. A kernel [k, k, C, O] is the matrix [k * k * C, O], and the
    head is left to Adam, as there. The updates are brought to the size of Adam's: Liu et al. 2025
    (arXiv:2502.16982), section 2.2. So one learning rate and one weight decay serve both.
    """
    matrix = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)

    def dimensions(updates: Tree) -> Tree:
        return jax.tree.map(lambda _: matrix, updates)

    muon = optax.contrib.scale_by_muon(
        beta=optimizer.momentum, nesterov=optimizer.nesterov, weight_dimension_numbers=dimensions
    )
    return optax.partition(
        {"convolution": optax.chain(muon, optax.stateless_with_tree_map(_to_size_of_adam)), "other": adam},
        lambda params: jax.tree.map(lambda leaf: "convolution" if leaf.ndim == 4 else "other", params),
    )


def _to_size_of_adam(update: jax.Array, _: Any) -> jax.Array:
    """Scales a nearly orthogonal kernel [k, k, C, O] to the root mean square of Adam's updates."""
    fan_out = update.shape[-1]
    return update * (MUON_UPDATE * max(update.size // fan_out, fan_out) ** 0.5)


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
    def scaled(updates: Tree, _: Tree | None) -> Tree:
        scales = update_scales(updates, finetune, stages)
        return jax.tree.map(lambda update, scale: update * scale, updates, scales)

    return optax.stateless(scaled)


def _kernels(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
