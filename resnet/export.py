"""A network's weights in the formats of other frameworks, which read them without a line of this project."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ml_collections import ConfigDict

import settings
from errors import UserError
from files import write_result
from resnet.architecture import Architecture
from resnet.foreign import huggingface, torchvision
from resnet.foreign.containers import write_safetensors
from resnet.foreign.keras_model import keras_archive
from resnet.foreign.names import Arrays, Format
from resnet.foreign.reading import OWN
from resnet.network import Weights
from resnet.pretrained import FREE

ExportFormat = Literal["torchvision", "huggingface", "keras", "safetensors"]
FORMATS = get_args(ExportFormat)
# The fields of `config.model` that PyTorch's networks leave free; in the others they have one value.
TORCHVISION_FREE = ("depth", "width", "stem_width", "groups", "widen")
HUGGINGFACE_FREE = ("depth", "width", "stem_width", "variant")
TORCH_EPSILON = 1e-5
HEAD = {"head.kernel", "head.bias"}


def export(
    config: ConfigDict, weights: Weights, class_names: tuple[str, ...], format: ExportFormat, folder: Path
) -> Path:
    """Writes `weights` in `format` into `folder` and returns the path that the other framework loads.

    `torchvision` (timm too) and `safetensors` (this project's own names) are one file, `keras` is a model
    with its graph, `huggingface` a folder for `from_pretrained`. Normalisation and class names are in the
    file's metadata. Running variances take up the difference to the epsilon that the other code adds, the
    head the temperature, so that the softmax of its logits is what this project answers.

    Raises:
        UserError: the format has no such network, or `folder` cannot be written.
    """
    architecture = Architecture.from_config(config.model)
    named = weights.named()
    for name in HEAD & named.keys():
        named[name] = named[name] / np.float32(config.temperature)
    description = {
        "model": {name: value for name, value in config.model.items() if name not in FREE},
        "data": settings.preparation(config.data),
        "class_names": class_names,
        "test_time_flip": config.test_time_flip,
    }
    match format:
        case "safetensors":
            content = write_safetensors(named, {**description, "format": OWN.name})
            files = {"resnet.safetensors": content}
        case "keras":
            files = {"model.keras": keras_archive(named, architecture, description)}
        case "torchvision":
            _check_expressible(architecture, "torchvision", TORCHVISION_FREE)
            description["model"]["norm_epsilon"] = TORCH_EPSILON
            arrays = _torch_arrays(named, architecture, torchvision.FORMAT)
            files = {"torchvision.safetensors": write_safetensors(arrays, description)}
        case "huggingface":
            _check_expressible(architecture, "huggingface", HUGGINGFACE_FREE)
            description["model"]["norm_epsilon"] = TORCH_EPSILON
            arrays = _torch_arrays(named, architecture, huggingface.FORMAT)
            files = {
                "huggingface/model.safetensors": write_safetensors(arrays, description),
                "huggingface/config.json": _json(huggingface.config_json(architecture, class_names)),
            }
            if config.data.standardize == "none":  # Their preprocessor has no other normalisation.
                preprocessor = huggingface.preprocessor_json(description["data"])
                files["huggingface/preprocessor_config.json"] = _json(preprocessor)
    for name, content in files.items():
        write_result(folder / name, content)
    return folder / "huggingface" if format == "huggingface" else folder / next(iter(files))


def describe_input(config: ConfigDict, format: ExportFormat) -> str:
    """What the network in `format` is to be given, in words: shape, channel order, normalisation, views."""
    data = config.data
    side = data.image_size
    shape = [side, side, 3] if format in ("keras", "safetensors") else [3, side, side]
    normalized = {
        "none": f"(pixels / 255 - {list(data.mean)}) / {list(data.std)} of red, green and blue",
        "image": "pixels less their mean, over their standard deviation, of each image",
        "channel": "pixels less their mean, over their standard deviation, of each channel of each image",
    }[data.standardize]
    views = "; as an image and as its mirror image, of whose logits the mean is taken"
    return (
        f"float32 [N, {', '.join(map(str, shape))}], {data.channel_order.upper()}; {normalized}"
        f"{views if config.test_time_flip else ''}"
    )


def _check_expressible(architecture: Architecture, format: ExportFormat, free: tuple[str, ...]) -> None:
    standard = asdict(Architecture())
    differing = [
        f"config.model.{name}={value}"
        for name, value in asdict(architecture).items()
        if name not in (*free, "zero_init_last", "norm_epsilon") and value != standard[name]
        # Networks of basic blocks are the same in v1 and v1.5.
        if not (name == "variant" and value == "v1" and not architecture.bottleneck)
    ]
    if "variant" in free and architecture.preactivation:
        differing.append("config.model.variant=v2")
    if len(architecture.blocks) != 4:
        differing.append(f"config.model.depth={architecture.depth}")
    if differing:
        raise UserError(
            f"--format={format}: has no network with {', '.join(differing)}; expected what is common to"
            " both, or another format: keras takes nearly all, safetensors all"
        )


def _torch_arrays(named: Arrays, architecture: Architecture, format: Format) -> Arrays:
    """The state dict of a PyTorch network, whose norms add 1e-5 to the variance and count batches."""
    arrays: Arrays = {}
    for name, array in named.items():
        foreign, transform = format.foreign_name(name)
        if name.endswith(".var"):
            arrays[foreign.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
            if (excess := architecture.norm_epsilon - TORCH_EPSILON) != 0:
                array = (array.astype(np.float64) + excess).astype(np.float32)
        arrays[foreign] = transform.to_foreign(array)
    return arrays


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
