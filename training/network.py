"""The network that a config describes, and the weights that it starts from."""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs.rules import ADOPTED, architecture_of, default_fields, preprocessing_of
from resnet.checkpoint import newest_step
from resnet.errors import UserError
from resnet.network import Network, Weights, check_image_size
from resnet.pretrained import Pretrained, read_pretrained
from resnet.run import CONFIG_FILE
from workdir import settings


def make_network(config: ConfigDict, num_classes: int) -> Network:
    """Returns the network of `config` for `num_classes` classes.

    Raises:
        UserError: the network cannot be built, or its images are too small for it.
    """
    architecture = architecture_of(config.model)
    check_image_size(config.data.image_size, architecture)
    return Network(
        architecture,
        preprocessing_of(config),
        num_classes,
        compute_dtype=config.compute_dtype,
        convolution=config.model.convolution,
        frozen=config.finetune.frozen,
        freeze_norm=config.finetune.freeze_norm,
        stochastic_depth=config.model.stochastic_depth,
    )


def check_image_sizes(config: ConfigDict) -> None:
    """Checks the sizes of the images that training sees, for which no image is needed.

    Raises:
        UserError: they are too small for the network.
    """
    architecture = architecture_of(config.model)
    check_image_size(config.data.image_size, architecture)
    if early_size := config.augment.early_size:
        check_image_size(early_size, architecture, "config.augment.early_size")


def read_initial_weights(config: ConfigDict) -> Pretrained | None:
    """Returns the weights in `config.init_from`, or None. A head that is to be replaced is not read.

    Raises:
        UserError: as `read_pretrained`.
    """
    if not config.init_from:
        return None
    return read_pretrained(config.init_from, with_head=config.init_head != "replace")


def adopt(config: ConfigDict, pretrained: Pretrained) -> ConfigDict:
    """Returns `config` with the architecture and the normalisation of `pretrained`; the image size stays.

    Fields that ask for something else are named on stderr.
    """
    return _with_fields(config, asdict(pretrained.architecture), asdict(pretrained.preprocessing))


def _with_fields(config: ConfigDict, model: Mapping[str, Any], data: Mapping[str, Any]) -> ConfigDict:
    """Returns `config` with the architecture in `model` and the normalisation in `data`."""
    adopted = config.copy_and_resolve_references()
    for section, brought in (("model", model), ("data", data)):
        for name in ADOPTED[section]:
            asked, adopted[section][name] = config[section][name], brought[name]
            if asked not in (brought[name], default_fields()[f"{section}.{name}"]):
                print(
                    f"note: config.{section}.{name}={asked} has no effect, as the weights of"
                    f" config.init_from have {brought[name]}",
                    file=sys.stderr,
                )
    return adopted


class Start(NamedTuple):
    """What a run of `config` starts from: `pretrained`, or fresh weights where it is None.

    `config` has adopted the architecture and the normalisation. `digest` is a checksum of the weights in
    `config.init_from`, "" without any.
    """

    config: ConfigDict
    pretrained: Pretrained | None
    digest: str


def find_start(config: ConfigDict, workdir: Path) -> Start:
    """Returns what the run of `config` in `workdir` starts from, or has started from.

    Once every seed has a checkpoint, the weights in `config.init_from` are not read, as long as the path is
    the same: checkpoints hold everything, and the file may be gone.

    Raises:
        UserError: the weights are needed and cannot be read, or the `config.json` in `workdir` is damaged.
    """
    if config.init_from and os.path.lexists(workdir / CONFIG_FILE):
        stored, _ = settings.load(workdir)
        if stored.init_from == config.init_from and have_checkpoints(config, workdir):
            adopted = _with_fields(config, stored.model, stored.data)
            return Start(adopted, None, settings.stored_sources(workdir).weights)
    pretrained = read_initial_weights(config)
    if pretrained is None:
        return Start(config, None, "")
    return Start(adopt(config, pretrained), pretrained, _digest(pretrained.weights))


def have_checkpoints(config: ConfigDict, workdir: Path) -> bool:
    """Returns whether every seed of the run of `config` in `workdir` has a checkpoint."""
    return all(newest_step(folder) is not None for folder in settings.seed_workdirs(config, workdir))


def _digest(weights: Weights) -> str:
    """Returns a checksum of the names and the values of `weights`."""
    digest = hashlib.sha256()
    for name, array in sorted(weights.named().items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def initial_weights(network: Network, pretrained: Pretrained | None, *, init_head: str, seed: int) -> Weights:
    """Returns the weights of `pretrained` for `network`, with their own head or a new one.

    `init_head` is `config.init_head`; `seed` draws a new head. Without `pretrained` it draws all weights.

    Raises:
        UserError: `init_head` keeps a head with another number of classes.
    """
    if pretrained is None:
        return network.init(seed)
    count = len(pretrained.class_names)
    if init_head == "keep" and count != network.num_classes:
        raise UserError(
            f"config.init_head=keep: the weights have {count or 'no'} classes, the data set"
            f" {network.num_classes}; expected auto or replace"
        )
    if init_head != "replace" and count == network.num_classes:
        return pretrained.weights
    head = network.init(seed).params["head"]
    return Weights({**pretrained.weights.params, "head": head}, pretrained.weights.batch_stats)
