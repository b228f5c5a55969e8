"""What the fields of a config may be: their types, choices and bounds, and the rules between them."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from ml_collections import ConfigDict

from configs import default
from resnet import architecture, preprocessing
from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.fields import LARGEST, Bounds, check_field, check_three_numbers, expected_type, shown
from resnet.memory import gigabytes, has_accelerator, machine_memory
from resnet.preprocessing import FROM_WEIGHTS, NORMALIZATION, PREDICTION, PREPARATION, Preprocessing

CHOICES: dict[str, tuple[Any, ...]] = {
    "seeds_together": ("auto", "yes", "no"),
    "compute_dtype": ("auto", "float32", "bfloat16"),
    "data.name": ("signs", "rendered", "folder"),
    "data.placement": ("auto", "device", "stream"),
    "data.unreadable": ("skip", "refuse"),
    "data.sampling": ("shuffle", "balanced"),
    "data.folds_of": ("train", "all"),
    "augment.policy": ("none", "trivial", "rand"),
    "loss.name": ("softmax", "sigmoid"),
    "loss.class_weights": ("none", "balanced"),
    "init_head": ("auto", "keep", "replace"),
    "model.convolution": ("auto", "lax", "matmul", "patches"),
    "optimizer.name": ("sgd", "adam", "adamw", "lamb", "lion", "muon"),
    "optimizer.schedule": ("cosine", "constant", "multistep", "linear"),
    "gpu.matmul_precision": ("default", "high", "highest"),
    **{f"model.{name}": choices for name, choices in architecture.CHOICES.items()},
    **{
        f"data.{name}": choices for name, choices in preprocessing.CHOICES.items() if name not in FROM_WEIGHTS
    },
}
MAX_RENDERED = 10**7  # images; even of 32 pixels a side they take 41 GB
MAX_SEEDS, MAX_MILESTONES = 1000, 1000
MAX_HOSTS = 10**5
BOUNDS: dict[str, Bounds] = {
    "seed": (0, 2**32 - 1),
    "num_epochs": (1, 10**6),
    "batch_size": (1, 2**20),
    "steps_per_call": (1, 10**6),
    "data.rendered_size": (0, MAX_RENDERED),
    "data.rendered_share": (0, 1),
    "data.rendered_share_at_start": (0, 1),
    "data.train_size": (1, MAX_RENDERED),
    "data.test_size": (1, MAX_RENDERED),
    "data.seed": (0, 2**63 - 1),
    "data.variety": (0, 1),
    "data.store_size": (0, 4096),
    "data.loader_processes": (0, 1000),
    "data.test_fraction": (0, 0.9),
    "data.folds": (0, 1000),
    "data.fold": (0, 1000),
    "data.split_seed": (0, 2**63 - 1),
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
    "augment.pad": (0, 64),
    "augment.resized_crop": (0, 1),
    "augment.early_size": (0, 2047),
    "augment.early_share": (0, 1),
    "augment.policy_operations": (1, 16),
    "augment.policy_magnitude": (0, 30),
    "augment.erasing": (0, 1),
    "augment.mixup": (0, 1000),
    "augment.cutmix": (0, 1000),
    "model.stochastic_depth": (0, 0.9),
    "optimizer.decay_factor": (0, 1),
    "optimizer.accumulate": (1, 10**6),
    "optimizer.learning_rate": (0, LARGEST),
    "optimizer.warmup_epochs": (0, 10**6),
    "optimizer.momentum": (0, 0.999999),
    "optimizer.b1": (0, 0.999999),
    "optimizer.b2": (0, 0.999999),
    "optimizer.epsilon": (0, LARGEST),
    "optimizer.weight_decay": (0, LARGEST),
    "optimizer.clip_norm": (0, LARGEST),
    "optimizer.l2_stem_and_head": (0, LARGEST),
    "finetune.frozen": (0, 5),
    "finetune.layer_decay": (0.01, 1),
    "label_smoothing": (0, 0.999),
    "temperature": preprocessing.BOUNDS["temperature"],
    "ema_decay": (0, 0.999999),
    "checkpoint.every_epochs": (0, 10**6),
    "checkpoint.share": (0, 1),
    "checkpoint.every_minutes": (0, 10**6),
    "checkpoint.keep": (2, 10**6),  # The newest may turn out to be the one that diverged.
    "gpu.memory_fraction": (0.01, 1),
    "hosts.number": (0, MAX_HOSTS),
    "hosts.index": (-1, MAX_HOSTS - 1),
    "hosts.timeout": (5, 86400),
    **{f"model.{name}": bounds for name, bounds in architecture.BOUNDS.items()},
    **{f"data.{name}": preprocessing.BOUNDS[name] for name in ("image_size", "crop")},
}
# Other names by which people know a field, or a part of one; they are looked for in the last part of a name.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "base_lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "decay": "optimizer.weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "epochs": "num_epochs",
    "max_epochs": "num_epochs",
    "warmup": "optimizer.warmup_epochs",
    "scheduler": "optimizer.schedule",
    "opt": "optimizer.name",
    "optim": "optimizer.name",
    "optimizer": "optimizer.name",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "eps": "optimizer.epsilon",
    "grad_clip": "optimizer.clip_norm",
    "clip_grad": "optimizer.clip_norm",
    "max_grad_norm": "optimizer.clip_norm",
    "smoothing": "label_smoothing",
    "ema": "ema_decay",
    "dtype": "compute_dtype",
    "precision": "compute_dtype",
    "amp": "compute_dtype",
    "fp16": "compute_dtype",
    "bf16": "compute_dtype",
    "img_size": "data.image_size",
    "input_size": "data.image_size",
    "resolution": "data.image_size",
    "size": "data.image_size",
    "dataset": "data.name",
    "data": "data.name",
    "data_path": "data.dir",
    "data_dir": "data.dir",
    "hflip": "augment.flip",
    "drop_path": "model.stochastic_depth",
    "droppath": "model.stochastic_depth",
    "grad_accum": "optimizer.accumulate",
    "accum_iter": "optimizer.accumulate",
    "gradient_accumulation_steps": "optimizer.accumulate",
    "reprob": "augment.erasing",
    "random_erase": "augment.erasing",
    "auto_augment": "augment.policy",
    "aa": "augment.policy",
    "class_weight": "loss.class_weights",
    "gamma": "optimizer.decay_factor",
    "train_dir": "data.dir",
    "root": "data.dir",
    "val_split": "data.val_fraction",
    "arch": "model.depth",
    "layers": "model.depth",
    "model": "model.depth",
    "pretrained": "init_from",
    "finetune": "init_from",
    "checkpoint": "init_from",
    "freeze": "finetune.frozen",
    "gpus": "gpu.visible_devices",
    "devices": "gpu.visible_devices",
    "cuda": "gpu.visible_devices",
    "random_seed": "seed",
    "tta": "test_time_flip",
    "coordinator_address": "hosts.coordinator",
    "master_addr": "hosts.coordinator",
    "num_processes": "hosts.number",
    "num_hosts": "hosts.number",
    "world_size": "hosts.number",
    "process_id": "hosts.index",
    "rank": "hosts.index",
}
CLOSE = 0.75  # of `difflib`: less similar names are not suggested


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) for every field of `config`."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def default_fields() -> Mapping[str, Any]:
    """Returns the dotted name and the default of every field that there is."""
    return dict(flatten(default.get_config()))


def suggest_field(name: str) -> str | None:
    """Returns the field that somebody who typed `name` probably means, or None if none is near."""
    known = default_fields()
    name = name.lower().replace("-", "_").removeprefix("config.")
    last = name.rpartition(".")[2]
    if last in ALIASES:
        return ALIASES[last]
    by_last = {field.rpartition(".")[2]: field for field in reversed(known)}
    for word, candidates in ((last, by_last), (name, dict(zip(known, known, strict=True)))):
        if nearest := difflib.get_close_matches(word, candidates, n=1, cutoff=CLOSE):
            return candidates[nearest[0]]
    return None


def check_is_field(name: str) -> None:
    """Checks that there is a field of this dotted name.

    Raises:
        UserError: there is none; the message suggests the nearest field, if one is near.
    """
    if name not in default_fields():
        nearest = suggest_field(name)
        hint = f"did you mean config.{nearest}?" if nearest else "configs/default.py lists all fields"
        raise UserError(f"config.{name}: no such field; {hint}")


def expected_type_of(name: str) -> str:
    """Returns in words what a value of the field `name` is."""
    return expected_type(default_fields()[name])


# Fields of `config.model` that say how the network is computed or trained, not what it is.
TRAINING_ONLY = ("convolution", "stochastic_depth")
# Fields that the weights in `config.init_from` bring. How fresh weights are drawn is not among them.
ADOPTED = {
    "model": tuple(field.name for field in fields(Architecture) if field.name != "zero_init_last"),
    "data": NORMALIZATION,
}
# Changes that happen to the share `config.augment.appearance` of the images alone.
APPEARANCE = (
    "background",
    "veil",
    "saturation",
    "brightness",
    "contrast",
    "channel_gain",
    "levels",
    "noise",
    "cutout",
)


def architecture_of(model: ConfigDict) -> Architecture:
    """Returns the architecture of `config.model`, without its fields that are not about the network itself.

    Raises:
        UserError: a field is out of range, or does not go with another one.
    """
    try:
        return Architecture(**{name: value for name, value in model.items() if name not in TRAINING_ONLY})
    except UserError as error:
        raise UserError(f"config.model.{error}") from None


def preprocessing_of(config: ConfigDict) -> Preprocessing:
    """Returns the preprocessing of `config.data`, with the prediction settings of `config`.

    Raises:
        UserError: a field is out of range.
    """
    try:
        return Preprocessing(
            **{name: config.data[name] for name in PREPARATION}, **{name: config[name] for name in PREDICTION}
        )
    except UserError as error:
        raise UserError(f"config.data.{error}") from None


def check(config: ConfigDict) -> None:
    """Checks everything that can be known without looking at the data and the devices.

    Raises:
        UserError: a field is unknown, missing, of the wrong type, out of range or not among its choices.
    """
    values, defaults = dict(flatten(config)), default_fields()
    for name in values:
        check_is_field(name)
    for name, example in defaults.items():
        if name not in values:
            raise UserError(f"config.{name}: missing; start the config from configs/default.py")
        check_field(
            f"config.{name}",
            values[name],
            example,
            choices=CHOICES.get(name),
            bounds=BOUNDS.get(name, (-LARGEST, LARGEST) if type(example) in (int, float) else (None, None)),
        )
        if isinstance(example, str) and (control := re.search("[\x00-\x1f\x7f]", values[name])):
            raise UserError(
                f"config.{name}={shown(values[name])}: holds the control character {control[0]!r}, expected"
                " text of one line"
            )
    for name in ("data.mean", "data.std"):
        check_three_numbers(f"config.{name}", values[name], defaults[name])
    _check_seeds(config.seeds)
    _check_rendered_hands(config)
    _check_milestones(config.optimizer.milestones)
    _check_folder(config)
    _check_validation(config.data)
    _check_early_size(config)
    _check_placement(config)
    _check_balance(config)
    _check_hosts(config.hosts)
    preprocessing_of(config)
    architecture_of(config.model)
    if config.gpu.visible_devices.strip(", 0123456789"):
        raise UserError(
            f"config.gpu.visible_devices={config.gpu.visible_devices}: expected indices such as 0,1"
        )


def _check_seeds(seeds: tuple[Any, ...]) -> None:
    if len(seeds) > MAX_SEEDS:
        raise UserError(f"config.seeds={shown(seeds)}: are {len(seeds):,}, expected at most {MAX_SEEDS:,}")
    low, high = BOUNDS["seed"]
    all_in_range = all(type(seed) is int and low <= seed <= high for seed in seeds)
    if len(set(seeds)) < len(seeds) or not all_in_range:
        raise UserError(
            f"config.seeds={shown(seeds)}: expected different whole numbers, {low} to {high}, such as"
            " (0, 1, 2)"
        )


def _check_rendered_hands(config: ConfigDict) -> None:
    """Checks that rendered hands are added to other images, and that some of them are trained on."""
    data = config.data
    if not data.rendered_size:
        return
    if data.name == "rendered":
        raise UserError(
            f"config.data.rendered_size={data.rendered_size}: adds rendered hands to photographs, but"
            " data.name is rendered already; expected 0, and their number in data.train_size"
        )
    share_at_start = data.rendered_share_at_start if config.augment.ramp else 0
    if not (data.rendered_share or share_at_start):
        raise UserError(
            f"config.data.rendered_size={data.rendered_size}: none of them would be trained on, as"
            " data.rendered_share is 0, and data.rendered_share_at_start is 0 or has no augment.ramp to last"
            " for; expected a share of each batch"
        )


def _check_milestones(milestones: tuple[Any, ...]) -> None:
    are_shares = all(type(share) in (int, float) and 0 < share < 1 for share in milestones)
    if len(milestones) > MAX_MILESTONES:
        raise UserError(
            f"config.optimizer.milestones={shown(milestones)}: are {len(milestones):,}, expected at most"
            f" {MAX_MILESTONES:,}"
        )
    if not are_shares or list(milestones) != sorted(set(milestones)):
        raise UserError(
            f"config.optimizer.milestones={shown(milestones)}: expected ascending shares of the training"
            " between 0 and 1, such as (0.5, 0.75)"
        )


def _check_folder(config: ConfigDict) -> None:
    """Checks the fields that only a folder of images has, and the size at which its images are stored."""
    data, augment = config.data, config.augment
    for name in ("test_fraction", "store_size"):
        if data[name] and data.name != "folder":
            raise UserError(
                f"config.data.{name}={data[name]}: is for data.name=folder, but it is {data.name}; expected 0"
            )
    if data.store_size and data.store_size < data.image_size:
        raise UserError(
            f"config.data.store_size={data.store_size}: smaller than data.image_size={data.image_size};"
            " expected at least that, or 0"
        )
    if data.store_size > data.image_size and not (augment.pad or augment.resized_crop):
        raise UserError(
            f"config.data.store_size={data.store_size}: nothing crops the images to"
            f" data.image_size={data.image_size}; set augment.resized_crop, such as 0.25, or store_size to 0"
        )
    if data.unreadable != "skip" and data.name != "folder":
        raise UserError(
            f"config.data.unreadable={data.unreadable!r}: is for data.name=folder, but it is {data.name};"
            " expected 'skip'"
        )


def _check_validation(data: ConfigDict) -> None:
    """Checks that validation images are a share of each class or one of several folds, not both."""
    if data.val_fraction and data.folds:
        raise UserError(
            f"config.data.val_fraction={data.val_fraction}: cannot be combined with"
            f" config.data.folds={data.folds}; set one of them to 0"
        )
    if data.fold and not data.folds:
        raise UserError(
            f"config.data.fold={data.fold}: expected 0, as config.data.folds=0 makes no folds; set"
            " config.data.folds to their number, or config.data.fold to 0"
        )
    if data.folds_of != "train" and (data.name != "signs" or not data.folds):
        raise UserError(
            f"config.data.folds_of={data.folds_of!r}: is for folds of SIGNS, but data.name={data.name} and"
            f" data.folds={data.folds}; expected 'train', or data.name=signs and a number of folds"
        )


def _check_early_size(config: ConfigDict) -> None:
    """Checks that images which are smaller early in training are smaller, and for how long they are."""
    augment, image_size = config.augment, config.data.image_size
    if augment.early_size >= image_size:
        raise UserError(
            f"config.augment.early_size={augment.early_size}: does not make images smaller, as"
            f" data.image_size={image_size}; expected less, or 0"
        )
    for name, other in (("early_size", "early_share"), ("early_share", "early_size")):
        if augment[name] and not augment[other]:
            raise UserError(
                f"config.augment.{name}={augment[name]}: has no effect without augment.{other}, which is 0;"
                " set both, or neither"
            )


def _check_placement(config: ConfigDict) -> None:
    if config.data.placement == "stream" and config.seeds and config.seeds_together == "yes":
        raise UserError(
            "config.seeds_together='yes': each seed would need a stream of its own, as config.data.placement"
            " is stream; set it to no, and the seeds are trained one after the other"
        )


def _check_balance(config: ConfigDict) -> None:
    """Checks that classes of different sizes are balanced once, and by the images that are trained on."""
    weights, sampling = config.loss.class_weights, config.data.sampling
    others = {
        "data.sampling=balanced": sampling == "balanced",
        "data.rendered_size": config.data.rendered_size,
    }
    for other, is_set in others.items():
        if weights == "balanced" and is_set:
            raise UserError(
                f"config.loss.class_weights={weights!r}: weighs classes by their images, which is wrong with"
                f" {other}; set one of the two"
            )


def _check_hosts(hosts: ConfigDict) -> None:
    """Checks that coordinator, number and index of several hosts come together, and fit to each other."""
    is_set = {
        "coordinator": hosts.coordinator != "",
        "number": hosts.number != 0,
        "index": hosts.index != -1,
    }
    if not any(is_set.values()):
        return
    if missing := [name for name, given in is_set.items() if not given]:
        given = ", ".join(name for name, given in is_set.items() if given)
        raise UserError(
            f"config.hosts.{missing[0]}: missing, while {given} is set; expected coordinator, number and"
            " index on every host, or none of them"
        )
    if hosts.index >= hosts.number:
        raise UserError(
            f"config.hosts.index={hosts.index}: out of range, expected 0 to {hosts.number - 1}, as"
            f" config.hosts.number is {hosts.number}"
        )
    host, _, port = hosts.coordinator.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) is not None and 0 < int(port) < 2**16
    if not is_port or not re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", host):
        raise UserError(
            f"config.hosts.coordinator={shown(hosts.coordinator)}: expected HOST:PORT of host 0, such as"
            " node1:8476 or [::1]:8476"
        )


# What a config asks of the machine


def check_data_memory(config: ConfigDict) -> None:
    """Checks that this machine can hold the images that `config.data` has rendered.

    Raises:
        UserError: it cannot.
    """
    data = config.data
    sizes = {"data.rendered_size": data.rendered_size}
    if data.name == "rendered":
        sizes |= {"data.train_size": data.train_size, "data.test_size": data.test_size}
    for name, size in sizes.items():
        needed = size * data.image_size**2 * 4  # a matte beside the three colours
        if needed > machine_memory():
            raise UserError(
                f"config.{name}={size}: so many images of {data.image_size} pixels a side take"
                f" {gigabytes(needed)}, expected at most the {gigabytes(machine_memory())} of memory here"
            )


def check_training_memory(config: ConfigDict) -> None:
    """Checks that this machine can hold the network while it is trained. It may still need more than this.

    Raises:
        UserError: it cannot hold the weights, their gradients, averages and moments. Or it has no
            accelerator, and cannot hold the activations of a batch.
    """
    network = architecture_of(config.model)
    memory = machine_memory()
    moments = 2 if config.optimizer.name in ("adam", "adamw", "lamb") else 1
    needed = 4 * network.least_parameters() * (2 + moments + (config.ema_decay > 0))
    if needed > memory and not config.init_from:  # which sets the model
        raise UserError(
            f"config.model.width={config.model.width}: the weights and the state of the optimizer take at"
            f" least {gigabytes(needed)}, expected at most the {gigabytes(memory)} of memory here; take a"
            " narrower network"
        )
    needed = 2 * config.batch_size * network.least_activations(config.data.image_size)
    if needed > memory and not (config.init_from or has_accelerator()):
        raise UserError(
            f"config.batch_size={config.batch_size}: with images of {config.data.image_size} pixels a side a"
            f" step takes at least {gigabytes(needed)}, expected at most the {gigabytes(memory)} of memory"
            " here; lower one of the two"
        )


def fields_without_effect(config: ConfigDict) -> dict[str, str]:
    """Returns the fields of a training that are changed from their defaults to no effect, with the reason."""
    values, defaults = dict(flatten(config)), default_fields()
    return {
        name: reason
        for reason, (is_so, names) in _useless_fields(config).items()
        if is_so
        for name in names.split()
        if values[name] != defaults[name]
    }


def _useless_fields(config: ConfigDict) -> dict[str, tuple[bool, str]]:
    """Returns by reason whether it holds, and the fields that then have no effect."""
    data, optimizer, name = config.data, config.optimizer, config.optimizer.name
    augment = config.augment
    # One that is 0 is off, and asks for nothing.
    appearance = [f"augment.{field}" for field in APPEARANCE if augment[field]]
    draws = data.name == "rendered" or data.rendered_size > 0
    return {
        "augment.ramp is 0": (not augment.ramp, "data.rendered_share_at_start"),
        "data.rendered_size is 0": (
            not data.rendered_size,
            "data.rendered_share data.rendered_share_at_start",
        ),
        "no images are rendered": (not draws, "data.seed data.variety"),
        "data.name is not rendered": (data.name != "rendered", "data.train_size data.test_size"),
        "data.name is rendered": (data.name == "rendered", "data.dir"),
        "data.standardize is not none": (data.standardize != "none", "data.mean data.std"),
        "augment.appearance is 0": (not augment.appearance, " ".join(appearance)),
        "augment.policy is not rand": (
            augment.policy != "rand",
            "augment.policy_operations augment.policy_magnitude",
        ),
        "optimizer.schedule is not multistep": (
            optimizer.schedule != "multistep",
            "optimizer.milestones optimizer.decay_factor",
        ),
        f"optimizer.name is {name}": (name not in ("sgd", "muon"), "optimizer.momentum optimizer.nesterov"),
        f"{name} has no such decay": (name == "sgd", "optimizer.b1 optimizer.b2"),
        f"{name} does not divide by it": (name in ("sgd", "lion"), "optimizer.epsilon"),
        "config.seeds name the seeds": (bool(config.seeds), "seed"),
        "config.seeds is empty": (not config.seeds, "seeds_together"),
        "config.init_from is empty": (not config.init_from, "init_head"),
    }
