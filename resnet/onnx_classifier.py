"""A network in an ONNX model that this project exported, run by ONNX Runtime: the fastest way on a CPU."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from resnet.classifier import Classifier, check_finite
from resnet.errors import UserError
from resnet.files import read_file
from resnet.formats.containers import DESCRIPTION, damaged
from resnet.formats.description import DESCRIPTION_SCHEMA, described
from resnet.formats.onnx_model import CLASS_NAMES, FLOAT32, INPUT, LOGITS, NOTES, PROBABILITIES, OnnxOptions
from resnet.formats.onnx_runtime import import_onnx_runtime
from resnet.json_files import Schema, parse_json
from resnet.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnxruntime

SUFFIX = ".onnx"
MAX_BYTES = 2**31  # what the format allows
_BATCH_SIZE = 32
_NOTES: Schema = {
    "type": "object",
    "properties": {
        "precision": {"type": "string"},
        "trained_on": {"type": "string"},
        "no_sign": {
            "type": ["object", "null"],
            "properties": {
                name: {"type": "number"} for name in ("threshold", "signs_rejected", "others_accepted")
            },
            "required": ["threshold"],
        },
    },
}
_CLASS_NAMES: Schema = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}


class OnnxClassifier(Classifier):
    """Answers as the `Classifier` that was exported does. It has no features, and no weights to export.

    `notes` are what the export noted with it, such as what the network was trained on.
    """

    def __init__(self, path: str | PathLike) -> None:
        """Loads the model in the file `path`.

        Raises:
            UserError: the package onnxruntime is not installed. Or the file is missing, damaged, or no model
                of this project.
        """
        self.path = Path(path)
        self._session = _session(self.path)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if not {DESCRIPTION, CLASS_NAMES} <= metadata.keys():
            raise UserError(
                f"{path}: does not say what its input and its classes are; expected a model that"
                " --mode=export --format=onnx wrote"
            )
        description = self._parsed(metadata, DESCRIPTION, DESCRIPTION_SCHEMA)
        self.class_names = tuple(self._parsed(metadata, CLASS_NAMES, _CLASS_NAMES))
        self.notes: Mapping[str, Any] = self._parsed(metadata, NOTES, _NOTES)
        self.preprocessing = described(Preprocessing, description.get("data", {}), self.path)
        self.image_size = self.preprocessing.image_size
        self.crop, self.fit = self.preprocessing.crop, self.preprocessing.fit
        self.resample = self.preprocessing.resample
        self._check_shapes()

    def _parsed(self, metadata: Mapping[str, str], name: str, schema: Schema) -> Any:
        return parse_json(metadata.get(name, "{}"), schema, f"{self.path}: its {name}")

    def _check_shapes(self) -> None:
        for node in (*self._session.get_inputs(), *self._session.get_outputs()):
            if node.shape and isinstance(node.shape[0], int):  # Otherwise it is a name.
                raise UserError(
                    f"{self.path}: its {node.name} are those of {node.shape[0]} pictures at once, expected"
                    " any number; export it again, and leave its shapes as they are"
                )
        side, classes = self.image_size, len(self.class_names)
        inputs = {node.name: (node.type, node.shape[1:]) for node in self._session.get_inputs()}
        outputs = {node.name: node.shape[1:] for node in self._session.get_outputs()}
        expected = {INPUT: ("tensor(uint8)", [side, side, 3])}
        if inputs != expected or outputs != {LOGITS: [classes], PROBABILITIES: [classes]}:
            raise UserError(
                f"{self.path}: its inputs {inputs} and outputs {outputs} are not those of its description,"
                f" pictures of {side} pixels and {classes} classes; export it again"
            )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of every class, float32 [N, classes], of `images` uint8 [N, S, S, 3].

        Raises:
            UserError: the array has another shape or dtype, or the model is damaged.
        """
        self.check_head()
        return self._output(PROBABILITIES, images)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits, float32 [N, classes], of `images` uint8 [N, S, S, 3].

        Raises:
            UserError: the array has another shape or dtype, or the model is damaged.
        """
        return self._output(LOGITS, images)

    def _output(self, name: str, images: np.ndarray) -> np.ndarray:
        images = self.checked_images(images)
        if not len(images):  # Not every version runs on nothing.
            return np.zeros((0, len(self.class_names)), np.float32)
        starts = range(0, len(images), _BATCH_SIZE)
        # Images that are loaded when they are sliced have errors of their own.
        batches = [self._run(name, images[i : i + _BATCH_SIZE]) for i in starts]
        check_finite(answers := np.concatenate(batches))
        return answers

    def _run(self, name: str, images: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([name], {INPUT: images})[0]
        except Exception as error:  # Some damage shows only now, each kind with an exception of its own.
            raise damaged(self.path, error) from None

    @property
    def layers(self) -> tuple[str, ...]:
        """No layers: the model gives nothing but its answers."""
        return ()

    def check_layer(self, layer: str, pool: str) -> NoReturn:
        """Refuses, as the model gives nothing but its answers.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.path}: an ONNX model gives answers, not features; expected a run or a file of weights"
        )

    def export(
        self, folder: str | PathLike, format: str = "safetensors", onnx: OnnxOptions = FLOAT32
    ) -> NoReturn:
        """Refuses, as the norms of the model are folded into its weights.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.path}: an ONNX model is an export already; expected a run or a file of weights"
        )


def _session(path: Path) -> "onnxruntime.InferenceSession":
    onnxruntime = import_onnx_runtime(str(path))
    try:
        content = read_file(path, MAX_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # What goes wrong is told in one line, below.
    try:
        return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # Each kind of damage has a kind of exception.
        raise damaged(path, error) from None
