"""Weights to start from, of this project or another framework, with what must travel with them."""

import json
import os
from collections import Counter
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from resnet.architecture import Architecture
from resnet.checkpoint import Checkpoints, Expected
from resnet.classifier import Classifier, network_of
from resnet.errors import UserError
from resnet.formats import huggingface, timm_config, torchvision
from resnet.formats.names import Format
from resnet.formats.reading import Translation, infer_model, recognise
from resnet.formats.weights_file import read_container
from resnet.imagenet import class_names_of
from resnet.network import ComputeDtype, Network, Weights, check_image_size
from resnet.ops.convolution import Lowering
from resnet.preprocessing import Preprocessing
from resnet.run import CONFIG_FILE, read_run

_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


class Pretrained(NamedTuple):
    """Weights with their architecture, preprocessing and class names.

    `format` is the name of a foreign format, or `run` for a run of this project. The class names are empty
    without a head. `compute_dtype` and `convolution` are those of a run, `auto` elsewhere.
    """

    architecture: Architecture
    preprocessing: Preprocessing
    weights: Weights
    class_names: tuple[str, ...]
    format: str
    compute_dtype: ComputeDtype = "auto"
    convolution: Lowering = "auto"


def read_pretrained(path: str | PathLike) -> Pretrained:
    """Reads a file of weights, a folder of Hugging Face's or timm's, or the workdir of a run.

    float16, bfloat16 and float64 become float32. A run gives the weights that `Classifier.load` takes.

    Raises:
        UserError: there is nothing to read, or it is damaged, or no network that this project has.
    """
    path = Path(path)
    if os.path.isfile(path / CONFIG_FILE) and os.path.isdir(path / "checkpoints"):
        return _read_run(path)
    folder = path if os.path.isdir(path) else path.parent
    path = _weights_file(path)
    container = read_container(path)
    format = recognise(container, path)
    translation = Translation(container.arrays, format)
    # What lies in the file itself is more reliable than what lies beside it.
    descriptions = [
        {"model": format.model, "data": format.data},
        _read_beside(folder, format),
        container.description or {},
    ]
    model: dict[str, Any] = infer_model(translation.named)
    data: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()
    for description in descriptions:
        model |= description.get("model", {})
        data |= description.get("data", {})
        class_names = tuple(description.get("class_names") or class_names)
        if "test_time_flip" in description:
            data["test_time_flip"] = description["test_time_flip"]
    architecture, preprocessing = _described(Architecture, model, path), _described(Preprocessing, data, path)
    weights = Weights.from_named(translation.finished(architecture, path))
    if len(class_names) != translation.classes:
        class_names = class_names_of(translation.classes)
    return Pretrained(architecture, preprocessing, weights, _unique(class_names), format.name)


def _weights_file(path: Path) -> Path:
    """Returns the file of weights that `path` names, or that lies in the folder `path`."""
    if not os.path.isdir(path):
        return path
    files = [path / name for name in _WEIGHTS_FILES if os.path.isfile(path / name)]
    if not files:
        raise UserError(
            f"{path}: neither a run nor {' nor '.join(_WEIGHTS_FILES)} in it; expected a workdir with"
            " checkpoints (of several seeds that of one, such as seed_0), or a file or folder of weights"
        )
    return files[0]


def _unique(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Makes the names of the classes differ: transformers calls both the bird and the machine `crane`."""
    counts = Counter(class_names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(class_names))


def _read_run(workdir: Path) -> Pretrained:
    run = read_run(workdir)
    expected = Expected(network_of(run).shapes(), run.keeps_average, workdir / CONFIG_FILE)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        weights, _ = checkpoints.restore_weights("best", run.keeps_average, expected)
    return Pretrained(
        run.architecture,
        run.preprocessing,
        weights,
        run.class_names,
        "run",
        compute_dtype=run.compute_dtype,
        convolution=run.convolution,
    )


def _described(kind: type, fields: dict[str, Any], path: Path) -> Any:
    """Returns the `Architecture` or `Preprocessing` of `fields`, where lists stand for tuples."""
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    except (UserError, TypeError) as error:
        raise UserError(
            f"{path}: no network of this project ({error}); expected a network that resnet.Architecture can"
            " describe"
        ) from None


def _read_beside(folder: Path, format: Format) -> dict[str, Any]:
    """Reads the files in which Hugging Face and timm describe the weights beside them."""
    contents = []
    for name in ("config.json", "preprocessor_config.json"):
        try:
            content = json.loads((folder / name).read_text())
        except FileNotFoundError:
            content = {}
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name}: cannot be read as JSON ({error}); remove or mend it") from None
        contents.append(content if isinstance(content, dict) else {})
    config, preprocessor = contents
    if format is huggingface.FORMAT and config.get("model_type") == "resnet":
        return huggingface.fields_of_json(config, preprocessor)
    if format is torchvision.FORMAT and "pretrained_cfg" in config:
        return timm_config.fields_of_json(config)
    return {}


def load_pretrained(
    path: str | PathLike,
    *,
    compute_dtype: ComputeDtype | None = None,
    convolution: Lowering | None = None,
    **changes: Any,
) -> Classifier:
    """Loads a classifier with the weights in `path`: a file, a folder of Hugging Face's or timm's, or a run.

    `changes` are fields of `Preprocessing`, such as `image_size=224` or `crop=0.95`, to use in place of those
    that come with the weights.

    Raises:
        UserError: there is nothing to read, or it is damaged, or no network that this project has.
    """
    pretrained = read_pretrained(path)
    preprocessing = replace(pretrained.preprocessing, **changes)
    check_image_size(preprocessing.image_size)
    network = Network(
        pretrained.architecture,
        preprocessing,
        len(pretrained.class_names),
        compute_dtype=compute_dtype or pretrained.compute_dtype,
        convolution=convolution or pretrained.convolution,
    )
    return Classifier(network, pretrained.weights, pretrained.class_names)
