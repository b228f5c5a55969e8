"""The settings of a run: checked, kept in its `config.json`, compared on resuming."""

import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import default
from errors import UserError
from files import write_whole

CONFIG_FILE = "config.json"
# Fields that may change when a run is resumed: neither model, data nor what is done so far.
MAY_CHANGE = (
    "seeds",
    "seeds_together",
    "num_epochs",
    "steps_per_call",
    "test_time_flip",
    "temperature",
    "optimizer.learning_rate",
    "compilation_cache",
    "data.dir",
    "checkpoint",
    "gpu",
)
# Fields of `data` that belong to a network: what it makes of pixels, and how it takes its images altogether.
NORMALIZATION = ("mean", "std", "standardize", "channel_order")
PREPARATION = (*NORMALIZATION, "image_size", "crop")
CHOICES = {
    "seeds_together": ("auto", "yes", "no"),
    "compute_dtype": ("auto", "float32", "bfloat16"),
    "data.name": ("signs", "rendered"),
    "data.standardize": ("none", "image", "channel"),
    "data.channel_order": ("rgb", "bgr"),
    "init_head": ("auto", "keep", "replace"),
    "model.depth": (16, 18, 20, 28, 32, 34, 40, 44, 50, 56, 101, 110, 152, 164, 200),
    "model.variant": ("v1", "v1.5", "v2"),
    "model.stem": ("7x7", "deep", "3x3"),
    "model.max_pool": ("padded", "zero_padded", "unpadded", "none"),
    "model.shortcut": ("projection", "zero_pad", "average_pool"),
    "model.stride_in": ("first_block", "last_block"),
    "model.convolution": ("auto", "lax", "matmul"),
    "optimizer.name": ("sgd", "adam", "adamw"),
    "optimizer.schedule": ("cosine", "constant"),
    "gpu.matmul_precision": ("default", "high", "highest"),
}
BOTTLENECK_DEPTHS = (50, 101, 152, 164, 200)
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
# Inclusive bounds; None is no bound.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, 2**32 - 1),
    "num_epochs": (1, None),
    "batch_size": (1, None),
    "steps_per_call": (1, None),
    "data.image_size": (1, 4096),
    "data.crop": (0.05, 1),
    "data.rendered_size": (0, None),
    "data.rendered_share": (0, 1),
    "data.rendered_share_at_start": (0, 1),
    "data.train_size": (1, None),
    "data.test_size": (1, None),
    "data.seed": (0, None),
    "data.variety": (0, 1),
    "data.split_seed": (0, None),
    "augment.flip": (0, 1),
    "augment.rotation": (0, 180),
    "augment.scale": (0, 0.9),
    "augment.translation": (0, 1),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.channel_gain": (0, 1),
    "augment.appearance": (0, 1),
    "augment.ramp": (0, 1),
    "augment.perspective": (0, 0.4),
    "augment.background": (0, 1),
    "augment.veil": (0, 1),
    "augment.saturation": (0, 1),
    "augment.levels": (0, 1),
    "augment.noise": (0, 1),
    "augment.cutout": (0, 1),
    "model.width": (1, None),
    "model.stem_width": (0, None),
    "model.groups": (1, None),
    "model.widen": (1, None),
    "model.squeeze": (0, None),
    "model.norm_epsilon": (1e-12, 1),
    "optimizer.learning_rate": (0, None),
    "optimizer.warmup_epochs": (0, None),
    "optimizer.momentum": (0, 1),
    "optimizer.b1": (0, 0.999999),
    "optimizer.b2": (0, 0.999999),
    "optimizer.epsilon": (0, None),
    "optimizer.weight_decay": (0, None),
    "optimizer.clip_norm": (0, None),
    "optimizer.l2_stem_and_head": (0, None),
    "finetune.frozen": (0, 5),
    "finetune.layer_decay": (0.01, 1),
    "label_smoothing": (0, 0.999),
    "temperature": (0.01, 100),
    "ema_decay": (0, 0.999999),
    "checkpoint.every_epochs": (0, None),
    "checkpoint.every_minutes": (0, None),
    "checkpoint.keep": (2, None),  # The newest may turn out to be the one that diverged.
    "gpu.memory_fraction": (0.01, 1),
}


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every field of `config`."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def _known_fields() -> Mapping[str, Any]:
    """The dotted name and the default of every field that there is."""
    return dict(flatten(default.get_config()))


def check_is_field(name: str) -> None:
    """Checks that there is a field of this dotted name.

    Raises:
        UserError: there is none; it tells the nearest.
    """
    known = _known_fields()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UserError(f"config.{name}: no such field; did you mean config.{nearest}?")


def expected_type(name: str) -> str:
    """What a value of the field `name` must be, in words."""
    return TYPE_NAMES.get(type(_known_fields()[name]), "a tuple")


def check(config: ConfigDict) -> None:
    """Checks all that can be known before data and devices are looked at.

    Raises:
        UserError: a field is unknown, missing, of the wrong type, out of range or not among its choices.
    """
    fields, known = dict(flatten(config)), _known_fields()
    for name in fields:
        check_is_field(name)
    for name, example in known.items():
        if name not in fields:
            raise UserError(f"config.{name}: missing; start the config from configs/default.py")
        value = fields[name]
        numeric = isinstance(example, float) and isinstance(value, int)
        if type(value) is not type(example) and (not numeric or isinstance(value, bool)):
            raise UserError(f"config.{name}={value!r}: expected {expected_type(name)}")
        if name in CHOICES and value not in CHOICES[name]:
            options = ", ".join(map(str, CHOICES[name]))
            raise UserError(f"config.{name}={value!r}: expected one of {options}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name}={value!r}: expected a finite number")
        low, high = BOUNDS.get(name, (None, None))
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limit = f"at least {low}" if high is None else f"{low} to {high}"
            raise UserError(f"config.{name}={value!r}: out of range, expected {limit}")
    for name in ("data.mean", "data.std"):
        value = fields[name]
        if len(value) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
            raise UserError(f"config.{name}={value!r}: expected 3 numbers, such as {known[name]}")
    low, high = BOUNDS["seed"]
    if len(set(config.seeds)) < len(config.seeds) or not all(
        type(seed) is int and low <= seed <= high for seed in config.seeds
    ):
        raise UserError(
            f"config.seeds={config.seeds!r}: expected different whole numbers, {low} to {high},"
            " such as (0, 1, 2)"
        )
    if config.data.rendered_size and config.data.name == "rendered":
        raise UserError(
            f"config.data.rendered_size={config.data.rendered_size}: adds rendered hands to photographs, but"
            " data.name is rendered already; expected 0, and their number in data.train_size"
        )
    at_start = config.data.rendered_share_at_start if config.augment.ramp else 0
    if config.data.rendered_size and not (config.data.rendered_share or at_start):
        raise UserError(
            f"config.data.rendered_size={config.data.rendered_size}: none of them would be trained on, as"
            " data.rendered_share is 0, and data.rendered_share_at_start is 0 or has no augment.ramp to last"
            " for; expected a share of each batch"
        )
    if min(config.data.std) <= 0:
        raise UserError(f"config.data.std={config.data.std!r}: expected numbers above 0")
    _check_model(config.model)
    if config.gpu.visible_devices.strip(", 0123456789"):
        raise UserError(
            f"config.gpu.visible_devices={config.gpu.visible_devices}: expected indices such as 0,1"
        )


def _check_model(model: ConfigDict) -> None:
    """Checks rules between fields of `config.model`."""
    for name in ("groups", "widen"):
        if model[name] != 1 and model.depth not in BOTTLENECK_DEPTHS:
            raise UserError(
                f"config.model.{name}={model[name]}: needs blocks of three convolutions, but"
                f" model.depth={model.depth} has basic ones; expected a depth of"
                f" {', '.join(map(str, BOTTLENECK_DEPTHS))}, or 1 and another model.width"
            )
    inner = model.width * model.widen
    if inner % model.groups:
        raise UserError(
            f"config.model.groups={model.groups}: does not divide model.width x model.widen = {inner};"
            " expected a divisor of it"
        )
    if model.stride_in == "last_block" and model.variant != "v2":
        raise UserError(
            f"config.model.stride_in=last_block: is the layout of pre-activation, but model.variant is"
            f" {model.variant}; expected first_block, or variant v2"
        )


def save(config: ConfigDict, class_names: tuple[str, ...], workdir: Path, data_digest: str = "") -> None:
    """Makes `workdir` and writes every field and the names of the classes to its `config.json`, atomically.

    `data_digest` tells the training images from others, see `trained_on`.

    Raises:
        UserError: `workdir` cannot be made or written.
    """
    stored = {"config": config.to_dict(), "class_names": class_names, "data_digest": data_digest}
    text = json.dumps(stored, indent=2)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(workdir / CONFIG_FILE, text + "\n")
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written ({error.strerror}); name a folder that can"
        ) from None


def load(workdir: Path) -> tuple[ConfigDict, tuple[str, ...]]:
    """Reads what `save` wrote: the config and the names of the classes.

    Raises:
        UserError: there is no run in `workdir`, or its `config.json` is damaged.
    """
    path = workdir / CONFIG_FILE
    try:
        stored = json.loads(path.read_text())
        config = default.get_config()
        for name, value in _flatten_dict(stored["config"]):
            *parents, last = name.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = tuple(value) if isinstance(value, list) else value
        class_names = tuple(map(str, stored["class_names"]))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{workdir}: no trained run here ({CONFIG_FILE} is missing);"
            f" train one with: python main.py --config=configs/signs.py --workdir={workdir}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}); expected what a run wrote there"
        ) from None
    check(config)
    return config, class_names


def _flatten_dict(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten_dict(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def seed_workdir(workdir: Path, seed: int) -> Path:
    """The folder of `seed` in the workdir of a run of several `config.seeds`: itself that of a run."""
    return workdir / f"seed_{seed}"


def seed_workdirs(config: ConfigDict, workdir: Path) -> list[Path]:
    """The folders that hold what `config` trains in `workdir`: one a seed, or `workdir` itself."""
    return [seed_workdir(workdir, seed) for seed in config.seeds] or [workdir]


def of_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """The settings of `seed` alone."""
    alone = config.copy_and_resolve_references()
    alone.seed, alone.seeds = seed, ()
    return alone


def trained_on(workdir: Path) -> str:
    """The digest of the training images that `save` was given for the run in `workdir`."""
    return json.loads((workdir / CONFIG_FILE).read_text()).get("data_digest", "")


def preparation(data: ConfigDict) -> dict[str, Any]:
    """Of `data`, the `data` part of a config, what belongs to the network: how it takes its images."""
    return {name: data[name] for name in PREPARATION}


def prediction(config: ConfigDict) -> str:
    """How logits become predictions, which may change after the last step, in words."""
    return f"test_time_flip={config.test_time_flip} temperature={config.temperature:g}"


def check_same_run(config: ConfigDict, workdir: Path, data_digest: str = "", finished: bool = False) -> None:
    """Checks that `config`, on the data of `data_digest`, may continue the run in `workdir`, if there is one.

    Once it is `finished`, its learning rate is what it was trained with.

    Raises:
        UserError: fields or images differ that a resumed run must share, or `num_epochs` shrank.
    """
    if not os.path.exists(workdir / CONFIG_FILE):
        return
    old, _ = load(workdir)
    old_fields, new_fields = dict(flatten(old)), dict(flatten(config))
    may_change = [name for name in MAY_CHANGE if not (finished and name == "optimizer.learning_rate")]
    differing = [
        f"{name} (there {old_fields[name]!r}, here {value!r})"
        for name, value in new_fields.items()
        if value != old_fields[name] and not name.startswith(tuple(may_change))
    ]
    if bool(old.seeds) != bool(config.seeds):  # They leave different files behind.
        differing.append(f"seeds (there {old.seeds!r}, here {config.seeds!r})")
    if differing:
        raise UserError(
            f"{workdir}: holds a run with other settings: {'; '.join(differing)};"
            " use another --workdir, or the same settings"
        )
    if trained_on(workdir) != data_digest:
        raise UserError(
            f"{workdir}: holds a run on other training images than those of {config.data.name} now;"
            " use another --workdir, or the same images"
        )
    if config.num_epochs < old.num_epochs:
        raise UserError(
            f"config.num_epochs={config.num_epochs}: the run in {workdir} was set to"
            f" {old.num_epochs}; it may grow, not shrink"
        )
