"""Weights to start from, of this project or another framework, with what must travel with them."""

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
from resnet.formats import hub, huggingface, timm_config, torchvision
from resnet.formats.containers import DESCRIPTION
from resnet.formats.description import DESCRIPTION_SCHEMA, described
from resnet.formats.keras_model import keras_graph
from resnet.formats.names import Format
from resnet.formats.reading import OWN, Translation, check_names, infer_model, recognise, unwrapped
from resnet.formats.weights_file import INDEX_SUFFIX, WEIGHTS_FILES, read_container, read_shards
from resnet.imagenet import class_names_of
from resnet.json_files import check_json, parse_json, read_json
from resnet.network import ComputeDtype, Network, Weights, check_image_size
from resnet.onnx_classifier import SUFFIX, OnnxClassifier
from resnet.ops.convolution import Lowering
from resnet.preprocessing import Preprocessing
from resnet.run import CONFIG_FILE, read_run


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


def read_pretrained(path: str | PathLike, *, with_head: bool = True) -> Pretrained:
    """Reads a file of weights, a folder of Hugging Face's or timm's, or the workdir of a run.

    An address such as `hf://owner/name` is fetched from the Hugging Face Hub, see `resnet.formats.hub`.
    Without `with_head`, whatever head a model of Keras has is left out.
    float16, bfloat16 and float64 become float32. A run gives the weights that `Classifier.load` takes.

    Raises:
        UserError: there is nothing to read, or it is damaged, or no network that this project has.
    """
    path = hub.fetch(path).folder if hub.is_address(path) else Path(path)
    if os.path.isfile(path / CONFIG_FILE) and os.path.isdir(path / "checkpoints"):
        return _read_run(path)
    folder = path if os.path.isdir(path) else path.parent
    path = _weights_file(path)
    if path.name.endswith(INDEX_SUFFIX):
        container = read_shards(path)
    else:
        container = read_container(path, with_head=with_head)
    check_names(container.arrays, path)
    inside = {} if container.description is None else container.description
    check_json(inside, DESCRIPTION_SCHEMA, f"{path}: its {DESCRIPTION}")
    if inside.get("format") != OWN.name:
        container = container._replace(arrays=unwrapped(container.arrays))
    format = recognise(container, path)
    translation = Translation(container.arrays, format)
    beside = _read_beside(folder, format)
    _check_agreement(inside, beside, path)
    descriptions = [{"model": format.model, "data": format.data}, beside, inside]
    model: dict[str, Any] = infer_model(translation.named)
    data: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()
    for description in descriptions:
        model |= description.get("model", {})
        data |= description.get("data", {})
        class_names = tuple(description.get("class_names") or class_names)
        if "test_time_flip" in description:
            data["test_time_flip"] = description["test_time_flip"]
    architecture, preprocessing = described(Architecture, model, path), described(Preprocessing, data, path)
    weights = Weights.from_named(translation.finished(architecture, path))
    if container.graph is not None and with_head:
        _check_graph(container.graph, weights, architecture, path)
    counts = beside.get("classes", set()) | ({len(class_names)} if class_names else set())
    if (classes := translation.classes) and counts - {classes}:
        raise UserError(
            f"{path}: its head has {classes} outputs, but its description {max(counts - {classes})} classes;"
            " expected as many: restore the files that belong together"
        )
    class_names = class_names if classes and class_names else class_names_of(classes)
    return Pretrained(architecture, preprocessing, weights, _unique(class_names), format.name)


def _check_graph(graph: str | bytes, weights: Weights, architecture: Architecture, path: Path) -> None:
    """Checks that the graph of a Keras archive is the one that was exported.

    Raises:
        UserError: it has been edited, so that Keras would compute something else.
    """
    # The graph leaves out a head of no classes.
    named = {name: array for name, array in weights.named().items() if array.size}
    exported = keras_graph(named, architecture)
    if parse_json(graph, {}, f"{path}: the graph of the model") != exported:
        raise UserError(
            f"{path}: its config.json is not the graph that was exported with its description; export the run"
            " again, or save the changed model in Keras, which leaves the description out"
        )


def _check_agreement(inside: dict[str, Any], beside: dict[str, Any], path: Path) -> None:
    """Checks that the descriptions beside a file of weights say what the file says itself.

    Raises:
        UserError: they differ, so that one of them was edited.
    """
    ours, theirs = (
        {
            **part.get("model", {}),
            **part.get("data", {}),
            "class_names": part.get("class_names"),
            "crop": _scaled_side(part.get("data", {})),
            "stem_width": _stem_width(part.get("model", {})),
        }
        for part in (inside, beside)
    )
    for name in sorted(theirs.keys() & ours.keys()):
        own, other = (list(v) if isinstance(v, tuple) else v for v in (ours[name], theirs[name]))
        if own != other and own is not None and other is not None:
            raise UserError(
                f"{path}: says {name}={own}, but the description beside it says {other}; expected the same:"
                " restore the description, or change it by an argument or a config"
            )


def _scaled_side(data: dict[str, Any]) -> float | None:
    """Returns the side to which a picture is scaled: shares that differ a little may give the same."""
    if "crop" not in data or "image_size" not in data:
        return None
    return int(round(data["image_size"] / data["crop"], 6))


def _stem_width(model: dict[str, Any]) -> int | None:
    """Returns the channels after the stem, where 0 stands for the `width` of the network."""
    return model.get("stem_width") or model.get("width")


def _weights_file(path: Path) -> Path:
    """Returns the file of weights that `path` names, or that lies in the folder `path`."""
    if not os.path.isdir(path):
        return path
    files = [path / name for name in WEIGHTS_FILES if os.path.isfile(path / name)]
    if not files:
        raise UserError(
            f"{path}: neither a run nor {' nor '.join(WEIGHTS_FILES)} in it; expected a workdir with"
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


def _read_beside(folder: Path, format: Format) -> dict[str, Any]:
    """Reads the files in which Hugging Face and timm describe the weights beside them.

    Raises:
        UserError: they describe another network, or cannot be read.
    """
    if format.name not in (huggingface.NAME, torchvision.FORMAT.name):
        return {}
    source = folder / "config.json"
    config = _json_object(source)
    if config is None or config.keys() >= {"config", "class_names"}:  # The latter is a run's.
        fields: dict[str, Any] = {}
    elif format.name == huggingface.NAME:
        fields = huggingface.fields_of_config(config, str(source))
    elif timm_config.is_timm(config):
        return timm_config.fields_of_json(config, str(source))
    elif "model_type" in config:
        raise UserError(
            f"{source}: model_type={config['model_type']!r}: describes another network than the weights"
            " beside it, which are torchvision's or timm's; move the weights to a folder of their own"
        )
    else:
        return {}
    source = folder / "preprocessor_config.json"
    preprocessor = _json_object(source) if format.name == huggingface.NAME else None
    if preprocessor is not None:
        fields |= huggingface.fields_of_preprocessor(preprocessor, str(source))
    return fields


def _json_object(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in `path`, None if there is no such file."""
    try:
        return read_json(path, {"type": "object"})
    except FileNotFoundError:
        return None


def load_pretrained(
    path: str | PathLike,
    *,
    compute_dtype: ComputeDtype | None = None,
    convolution: Lowering | None = None,
    **changes: Any,
) -> Classifier:
    """Loads a classifier with the weights in `path`: a file, a folder of Hugging Face's or timm's, or a run.

    `hf://owner/name` or `hf://owner/name@revision` loads a repository of the Hugging Face Hub.
    `changes` are fields of `Preprocessing`, such as `image_size=224` or `crop=0.95`, to use in place of those
    that come with the weights. An ONNX model that this project exported is loaded as it is.

    Raises:
        UserError: there is nothing to read, or it is damaged, or no network that this project has. Or
            there is no such `compute_dtype` or `convolution`.
    """
    if Path(path).suffix == SUFFIX and not os.path.isdir(path):
        if changes or compute_dtype or convolution:
            raise UserError(
                f"{path}: an ONNX model prepares and computes as it was exported, and takes no changes;"
                " leave out the config, or name the run or weights that it was exported from"
            )
        return OnnxClassifier(path)
    pretrained = read_pretrained(path)
    preprocessing = replace(pretrained.preprocessing, **changes)
    check_image_size(preprocessing.image_size, pretrained.architecture)
    network = Network(
        pretrained.architecture,
        preprocessing,
        len(pretrained.class_names),
        compute_dtype=compute_dtype or pretrained.compute_dtype,
        convolution=convolution or pretrained.convolution,
    )
    return Classifier(network, pretrained.weights, pretrained.class_names)
