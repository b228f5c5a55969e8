"""What the files that we export say of themselves: the form of that description."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.fields import Bounds
from resnet.formats.reading import OWN
from resnet.json_files import Schema
from resnet.preprocessing import BOUNDS, Preprocessing


def _schema_of(kind: type, bounds: Mapping[str, Bounds]) -> Schema:
    """Returns the schema of the fields of `Architecture` or `Preprocessing`, whose numbers have `bounds`."""
    numbers: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    types = {bool: {"type": "boolean"}, int: {"type": "integer"}, float: {"type": "number"}, tuple: numbers}
    properties = {field.name: types.get(type(field.default), {"type": "string"}) for field in fields(kind)}
    for name, (least, most) in bounds.items():
        properties[name] = {**properties[name], "minimum": least, "maximum": most}
    return {"type": "object", "additionalProperties": False, "properties": properties}


DESCRIPTION_SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": _schema_of(Architecture, {}),
        "data": _schema_of(Preprocessing, BOUNDS),
        "class_names": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "test_time_flip": {"type": "boolean"},
        "format": {"const": OWN.name},
    },
}


def described(kind: type, values: dict[str, Any], path: Path) -> Any:
    """Returns the `Architecture` or `Preprocessing` of the fields in `values`, where lists stand for tuples.

    Raises:
        UserError: this project has no such network.
    """
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    except (UserError, TypeError) as error:
        raise UserError(
            f"{path}: no network of this project ({error}); expected a network that resnet.Architecture can"
            " describe"
        ) from None
