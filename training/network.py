"""The network that a config describes, and the weights that it starts from."""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs.rules import architecture_of, preprocessing_of
from resnet.errors import UserError
from resnet.formats.export import INITIAL_ONLY
from resnet.network import Network, Weights, check_image_size
from resnet.preprocessing import NORMALIZATION
from resnet.pretrained import Pretrained, read_pretrained


def make_network(config: ConfigDict, num_classes: int) -> Network:
    """Returns the network of `config` for `num_classes` classes.

    Raises:
        UserError: the network cannot be built, or its images are too small for it.
    """
    check_image_size(config.data.image_size)
    return Network(
        architecture_of(config.model),
        preprocessing_of(config),
        num_classes,
        compute_dtype=config.compute_dtype,
        convolution=config.model.convolution,
        frozen=config.finetune.frozen,
        freeze_norm=config.finetune.freeze_norm,
        stochastic_depth=config.model.stochastic_depth,
    )


def read_initial_weights(config: ConfigDict) -> Pretrained | None:
    """Returns the weights in `config.init_from`, or None. A head that is to be replaced is not read.

    Raises:
        UserError: as `read_pretrained`.
    """
    if not config.init_from:
        return None
    return read_pretrained(config.init_from, with_head=config.init_head != "replace")


def adopt(config: ConfigDict, pretrained: Pretrained) -> ConfigDict:
    """Returns `config` with the architecture and the normalisation of `pretrained`; the image size stays."""
    adopted = config.copy_and_resolve_references()
    for name, value in asdict(pretrained.architecture).items():
        if name not in INITIAL_ONLY:
            adopted.model[name] = value
    for name in NORMALIZATION:
        adopted.data[name] = getattr(pretrained.preprocessing, name)
    return adopted


def initial_weights(network: Network, pretrained: Pretrained, *, init_head: str, seed: int) -> Weights:
    """Returns the weights of `pretrained` for `network`, with their own head or a new one.

    `init_head` is `config.init_head`; `seed` draws a new head.

    Raises:
        UserError: `init_head` keeps a head with another number of classes.
    """
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
