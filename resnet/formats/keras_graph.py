"""The graph of layers that a Keras model describes in JSON, with the models inside of it unfolded.

Keras 2 and 3 write it into `config.json` of `.keras` files and into an attribute of `.h5` files.
"""

import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from resnet.errors import UserError
from resnet.json_files import Schema, check_json

MODELS = {"Functional", "Model", "Sequential"}
_PACKAGES = {"keras", "tf_keras", "tensorflow"}  # whose modules hold the classes that are known here

_LAYER: Schema = {
    "type": "object",
    "required": ["class_name", "config"],
    "properties": {
        "class_name": {"type": "string"},
        "module": {"type": ["string", "null"]},
        "registered_name": {"type": ["string", "null"]},
        "config": {"type": ["object", "array"]},
        "name": {"type": "string"},
        "inbound_nodes": {"type": "array"},
    },
}
_LAYERS = {"type": "array", "items": _LAYER, "minItems": 1}
_SEQUENTIAL = {"type": "object", "required": ["layers"], "properties": {"layers": _LAYERS}}
_FUNCTIONAL = {
    "type": "object",
    "required": ["layers", "input_layers", "output_layers"],
    "properties": {
        "layers": {
            **_LAYERS,
            "items": {**_LAYER, "required": [*_LAYER["required"], "name", "inbound_nodes"]},
        },
        "input_layers": {"type": "array"},
        "output_layers": {"type": "array"},
    },
}
_CALL = {
    "type": ["object", "array"],
    "properties": {"args": {"type": "array"}, "kwargs": {"type": "object"}},
}
_TENSOR = {"type": "object", "required": ["config"], "properties": {"config": {"type": "object"}}}
_REFERENCE = {
    "type": "array",
    "prefixItems": [{"type": "string"}, {"type": "integer"}, {"enum": [0]}],
    "minItems": 3,
}


class Tensor(NamedTuple):
    """The output of a call of a layer, as an argument of another; `key` is that of its `Node`."""

    key: str


class Node(NamedTuple):
    """A call of a layer.

    `kind` is the layer's class in Keras. `arguments` are those of the call, in which outputs of other layers
    are `Tensor`s. `place` is the path of the layer's weights in `.weights.h5`, and `group` the name of the
    layer of the whole model in which it lies, which is its own unless it lies in a model inside of the model.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    arguments: tuple[Any, ...]
    place: str
    group: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keys of the calls whose outputs the call takes."""
        return tuple(tensor.key for tensor in tensors(self.arguments))

    def error(self, source: str, found: str, expected: str = "") -> UserError:
        """Returns the error of a layer that no network of this project has; `source` is the file."""
        advice = expected or "the layers of a ResNet of Keras Applications; save that network alone"
        return UserError(f"{source}: layer {self.name} ({self.kind}): {found}; expected {advice}")


class Graph(NamedTuple):
    """The calls of all layers by their keys, each after those whose outputs it takes, and the last one."""

    nodes: dict[str, Node]
    output: str


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def parse_graph(model: Any, source: str) -> Graph:
    """Returns the graph of `model`, the JSON of a Keras model that was read from `source`.

    Raises:
        UserError: it is not a model with one input and one output, whose layers are called as usual.
    """
    check_json(model, _LAYER, source)
    if _kind_of(model) not in MODELS:
        raise UserError(
            f"{source}: is a {_kind_of(model)}, which its class alone describes; expected a Functional or"
            " Sequential model: save the weights with model.save_weights"
        )
    builder = _Builder(source)
    output = builder.add_model(model, path="", place="", group="", inputs=None)
    dependencies = {key: node.inputs for key, node in builder.nodes.items()}
    if missing := {output}.union(*dependencies.values()) - builder.nodes.keys():
        raise UserError(f"{source}: no layer has the output {min(missing)}; expected a whole graph")
    try:
        order = list(TopologicalSorter(dependencies).static_order())
    except CycleError as error:
        raise UserError(
            f"{source}: layers feed each other in a circle ({' to '.join(error.args[1][:3])})"
        ) from None
    needed = {output}
    for key in reversed(order):
        if key in needed:
            needed.update(dependencies[key])
    return Graph({key: builder.nodes[key] for key in order if key in needed}, output)


class _Builder:
    """Collects the nodes of a model and of the models inside of it."""

    def __init__(self, source: str) -> None:
        self.nodes: dict[str, Node] = {}
        self._source = source
        self._models: set[str] = set()  # the names of models inside of the model

    def add_model(
        self, model: dict[str, Any], *, path: str, place: str, group: str, inputs: list[Any] | None
    ) -> str:
        """Adds the layers of `model` and returns the key of its output.

        `path` precedes the names of its layers. `inputs` are the arguments of its call, None for the whole.
        """
        config = model["config"]
        if model["class_name"] == "Sequential":
            config = {"layers": config} if isinstance(config, list) else config
            check_json(config, _SEQUENTIAL, f"{self._source}: {path or 'the model'}")
            layers = _chained(config["layers"])
            first, last = ([layers[0]["name"], 0, 0]), [layers[-1]["name"], 0, 0]
        else:
            check_json(config, _FUNCTIONAL, f"{self._source}: {path or 'the model'}")
            layers = config["layers"]
            first, last = (self._only(config[side], path, side) for side in ("input_layers", "output_layers"))
        self._models.update(path + layer["name"] for layer in layers if _kind_of(layer) in MODELS)
        places = _places(layers, place)
        for layer, its_place in zip(layers, places, strict=True):
            name = layer["name"]
            is_input = name == first[0] and inputs is not None
            self._add_layer(
                {**layer, "inbound_nodes": [inputs]} if is_input else layer,
                path=path,
                place=its_place,
                group=group or name,
                is_input=is_input,
            )
        return self._key(path, last)

    def _only(self, references: list[Any], path: str, side: str) -> list[Any]:
        """Returns the one reference in `input_layers` or `output_layers`."""
        if references and isinstance(references[0], list):
            if len(references) != 1:
                raise UserError(
                    f"{self._source}: {path or 'the model'} has {len(references)} {side}, expected one"
                )
            references = references[0]
        check_json(references, _REFERENCE, f"{self._source}: {path or 'the model'}: {side}")
        return references

    def _add_layer(self, layer: dict[str, Any], *, path: str, place: str, group: str, is_input: bool) -> None:
        name, kind = layer["name"], _kind_of(layer)
        settings = layer["config"] if isinstance(layer["config"], dict) else {}
        for index, call in enumerate(layer["inbound_nodes"] or [[]]):
            arguments = call if is_input else self._arguments(call, path, name)
            key = f"{path}{name}:{index}"
            if kind in MODELS:
                if index:
                    raise UserError(f"{self._source}: model {path}{name} is called twice, expected once")
                output = self.add_model(
                    layer, path=f"{path}{name}/", place=f"{place}/", group=group, inputs=arguments
                )
                kind_of_call, arguments = "Identity", [Tensor(output)]
            else:
                kind_of_call = "Identity" if is_input else kind
            if key in self.nodes:
                raise UserError(f"{self._source}: two layers have the name {path}{name}, expected one")
            self.nodes[key] = Node(f"{path}{name}", kind_of_call, settings, tuple(arguments), place, group)

    def _arguments(self, call: Any, path: str, name: str) -> list[Any]:
        """Returns the arguments of a call, as Keras 3 (an object) or Keras 2 (a list of lists) writes it."""
        source = f"{self._source}: layer {path}{name}"
        check_json(call, _CALL, source)
        if isinstance(call, dict):
            arguments = [self._argument(value, path, source) for value in call.get("args", [])]
            options = {key: self._argument(v, path, source) for key, v in call.get("kwargs", {}).items()}
        else:
            options = {}
            arguments = []
            # Keras 2 writes [["name", 0, 0, {options}], ...], and of one input sometimes ["name", 0, 0, {}].
            for reference in [call] if call and isinstance(call[0], str) else call:
                check_json(reference, _REFERENCE, source)
                arguments.append(Tensor(self._key(path, reference)))
                if len(reference) > 3 and isinstance(reference[3], dict):
                    options |= reference[3]
            arguments = [arguments] if len(arguments) > 1 else arguments
        if options.get("training"):
            raise UserError(
                f"{source}: is called with training=True, so that it behaves as in training even in"
                " predictions; expected training=False"
            )
        return arguments + [
            value for key, value in options.items() if value is not None and key not in ("training", "name")
        ]

    def _argument(self, value: Any, path: str, source: str) -> Any:
        if isinstance(value, list):
            return [self._argument(item, path, source) for item in value]
        if isinstance(value, dict) and value.get("class_name") in ("__keras_tensor__", "__tensor__"):
            check_json(value, _TENSOR, source)
            config = value["config"]
            if value["class_name"] == "__tensor__":
                return config.get("value")
            check_json(config.get("keras_history"), _REFERENCE, source)
            return Tensor(self._key(path, config["keras_history"]))
        return value

    def _key(self, path: str, reference: list[Any]) -> str:
        """Returns the key of the call to which `reference` (name, number) refers in the model of `path`."""
        name = path + reference[0]
        # In Keras 2, call 0 of a model inside of a model is its own, which the outer one does not list.
        return f"{name}:0" if name in self._models else f"{name}:{reference[1]}"


def _kind_of(layer: dict[str, Any]) -> str:
    """Returns the class of a layer or model. A custom class gives a text that names no class of Keras.

    Keras 3 writes the module of a class, and for custom ones a registered name such as `Package>Class`. For
    its own classes, that name is missing or equals the class. Keras 2 writes it as the class.
    """
    name: str = layer["class_name"]
    registered: str = layer.get("registered_name") or name
    module: str = layer.get("module") or "keras"
    if registered != name:
        return f"{name}, registered as {registered}"
    return name if module.partition(".")[0] in _PACKAGES else f"{module}.{name}"


def _chained(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the layers of a `Sequential` as those of a `Functional`, beginning with an input."""
    named = [{**layer, "name": _name_of(layer)} for layer in layers]
    if _kind_of(named[0]) != "InputLayer":
        shape = (
            layers[0]["config"].get("batch_input_shape") if isinstance(layers[0]["config"], dict) else None
        )
        config = {} if shape is None else {"batch_input_shape": shape}
        named.insert(0, {"class_name": "InputLayer", "name": "input", "config": config})
    calls = [[], *([[layer["name"], 0, 0]] for layer in named[:-1])]
    return [
        {**layer, "inbound_nodes": [call] if call else []} for layer, call in zip(named, calls, strict=True)
    ]


def _name_of(layer: dict[str, Any]) -> str:
    config = layer["config"]
    name = layer.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return name if isinstance(name, str) else layer["class_name"]


def _places(layers: list[dict[str, Any]], place: str) -> list[str]:
    """Returns the paths of the layers' weights: Keras counts the layers of each class."""
    counts: Counter[str] = Counter()
    places = []
    for layer in layers:
        name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", layer["class_name"]))
        name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
        places.append(f"{place}layers/{name}_{counts[name]}" if counts[name] else f"{place}layers/{name}")
        counts[name] += 1
    return places
