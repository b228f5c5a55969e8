"""Weights to start from, whoever made them, with all that must travel with them."""

import json
import os
from collections import Counter
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import settings
from configs import default
from datasets.imagenet import class_names_of
from errors import UserError
from resnet.checkpoint import Checkpoints
from resnet.classifier import Classifier
from resnet.foreign import huggingface, timm_config, torchvision
from resnet.foreign.containers import read_container
from resnet.foreign.names import Format
from resnet.foreign.reading import Translation, infer_model, recognise
from resnet.network import Network, Weights, check_image_size

# Fields of `config.model` that say how a network is computed or first drawn, not what its weights are.
FREE = ("convolution", "zero_init_last")
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


class Pretrained(NamedTuple):
    """Weights with what must travel with them: `config.model`, `config.data` fields and class names.

    `format` is the name of a foreign format, or `run` for a run of this project. Without a head the class
    names are empty.
    """

    config: ConfigDict
    weights: Weights
    class_names: tuple[str, ...]
    format: str


def read_pretrained(path: str | PathLike) -> Pretrained:
    """Reads a file of weights, a folder of Hugging Face's or timm's, or the workdir of a run.

    float16, bfloat16 and float64 become float32. A run gives the weights that `Classifier.load` takes.

    Raises:
        UserError: there is nothing to read, or it is damaged, or no network that this project has.
    """
    path = Path(path)
    if os.path.isfile(path / settings.CONFIG_FILE) and os.path.isdir(path / "checkpoints"):
        return _read_run(path)
    folder = path if os.path.isdir(path) else path.parent
    if os.path.isdir(path):
        files = [path / name for name in _WEIGHTS_FILES if os.path.isfile(path / name)]
        if not files:
            raise UserError(
                f"{path}: neither a run nor {' nor '.join(_WEIGHTS_FILES)} in it; expected a workdir with"
                " checkpoints (of several seeds that of one, such as seed_0), or a file or folder of weights"
            )
        path = files[0]
    container = read_container(path)
    format = recognise(container, path)
    translation = Translation(container.arrays, format)
    told = {"model": format.model, "data": format.data, "class_names": (), "test_time_flip": False}
    for more in (_beside(folder, format), container.description or {}):
        told = {
            "model": {**told["model"], **more.get("model", {})},
            "data": {**told["data"], **more.get("data", {})},
            "class_names": more.get("class_names") or told["class_names"],
            "test_time_flip": more.get("test_time_flip", told["test_time_flip"]),
        }
    model = {**infer_model(translation.named), **told["model"]}
    config = _config_of(model, told["data"], told["test_time_flip"], path)
    named = translation.finished(config, path)
    class_names = tuple(told["class_names"])
    if len(class_names) != translation.classes:
        class_names = class_names_of(translation.classes)
    return Pretrained(config, Weights.from_named(named), _unique(class_names), format.name)


def _unique(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that tell the classes apart: transformers calls two of ImageNet's `crane`, bird and machine."""
    counts = Counter(class_names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(class_names))


def _read_run(workdir: Path) -> Pretrained:
    config, class_names = settings.load(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        weights, _ = checkpoints.restore_weights("best", ema=bool(config.ema_decay))
    return Pretrained(config, weights, class_names, "run")


def _config_of(model: dict[str, Any], data: dict[str, Any], test_time_flip: bool, path: Path) -> ConfigDict:
    config = default.get_config()
    try:
        config.model.update(model)
        config.data.update({name: tuple(v) if isinstance(v, list) else v for name, v in data.items()})
        config.test_time_flip = test_time_flip
        settings.check(config)
    except (UserError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: no network of this project ({error}); expected one of those in configs/default.py"
        ) from None
    return config


def _beside(folder: Path, format: Format) -> dict[str, Any]:
    """What files of Hugging Face or timm beside the weights tell of them."""
    told = []
    for name in ("config.json", "preprocessor_config.json"):
        try:
            content = json.loads((folder / name).read_text())
        except FileNotFoundError:
            content = {}
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name}: cannot be read as JSON ({error}); remove or mend it") from None
        told.append(content if isinstance(content, dict) else {})
    if format is huggingface.FORMAT and told[0].get("model_type") == "resnet":
        return huggingface.fields_of_json(*told)
    if format is torchvision.FORMAT and "pretrained_cfg" in told[0]:
        return timm_config.fields_of_json(told[0])
    return {}


def adopt(config: ConfigDict, pretrained: Pretrained) -> ConfigDict:
    """`config` with the network and the normalisation of `pretrained`; the image size stays."""
    adopted = config.copy_and_resolve_references()
    for name, value in pretrained.config.model.items():
        if name not in FREE:
            adopted.model[name] = value
    for name in settings.NORMALIZATION:
        adopted.data[name] = pretrained.config.data[name]
    return adopted


def initial_weights(config: ConfigDict, pretrained: Pretrained, num_classes: int) -> Weights:
    """The weights of `pretrained` for `num_classes`, with its head or a new one drawn from `config.seed`.

    Raises:
        UserError: `config.init_head` keeps a head of another number of classes.
    """
    found = len(pretrained.class_names)
    if config.init_head == "keep" and found != num_classes:
        raise UserError(
            f"config.init_head=keep: the weights have {found or 'no'} classes, the data set {num_classes};"
            " expected auto or replace"
        )
    if config.init_head != "replace" and found == num_classes:
        return pretrained.weights
    head = Network(config, num_classes).init(config.seed).params["head"]
    return Weights({**pretrained.weights.params, "head": head}, pretrained.weights.batch_stats)


def load_pretrained(path: str | PathLike, config: ConfigDict | None = None) -> Classifier:
    """A classifier with the weights in `path`: a file, a folder of Hugging Face's or timm's, or a run.

    `config` has the image size, crop, precision and settings of prediction (mirror images, temperature) to
    use instead of those that come with the weights.

    Raises:
        UserError: there is nothing to read, or it is damaged, or no network that this project has.
    """
    own, weights, class_names, _ = pretrained = read_pretrained(path)
    if config is None:
        config = own
    else:
        config = adopt(config, pretrained)
        check_image_size(config.data.image_size)
    network = Network(config, len(class_names))
    return Classifier(network, weights, class_names, config.data.image_size, config.data.crop)
