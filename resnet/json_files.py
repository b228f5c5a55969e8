"""JSON that somebody may have edited or cut off: read within bounds, and checked by a schema before use."""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from resnet.errors import UserError
from resnet.files import read_file

MAX_BYTES = 64 * 2**20  # More than the metrics of a training of weeks.
MAX_SHOWN = 120  # characters of a value in a message

Schema = dict[str, Any]  # https://json-schema.org, draft 2020-12


def read_json(path: Path, schema: Schema, max_bytes: int = MAX_BYTES) -> Any:
    """Returns the JSON in `path`, which has the form that `schema` describes.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no file, too large, or not JSON of that form. The message names the place.
    """
    return parse_json(read_file(path, max_bytes), schema, str(path))


def read_optional_json(path: Path, schema: Schema, remedy: str) -> Any:
    """Returns the JSON in `path` as `read_json` does, or None if the file is missing or damaged.

    Damage is told on stderr, once, with what becomes of it: the `remedy`.
    """
    try:
        return read_json(path, schema)
    except FileNotFoundError:
        return None
    except UserError as error:
        tell_once(f"warning: {error}; {remedy}")
        return None


@cache
def tell_once(message: str) -> None:
    """Prints `message` on stderr, unless this process has printed it before."""
    print(message, file=sys.stderr)


def parse_json(text: str | bytes, schema: Schema, source: str) -> Any:
    """Returns the JSON in `text`, which has the form that `schema` describes; `source` says where it stands.

    Raises:
        UserError: it is something else. The message begins with `source`.
    """
    try:
        content = json.loads(text if isinstance(text, str) else text.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is not UTF-8 (byte {error.start:,}), expected JSON") from None
    except RecursionError:
        raise _too_deep(source) from None
    except ValueError as error:  # Numbers of thousands of digits are among them.
        raise UserError(f"{source}: is not JSON ({error}); mend it, or restore it from a copy") from None
    check_json(content, schema, source)
    return content


def _refuse(constant: str) -> NoReturn:
    """Refuses NaN and Infinity, which Python takes for numbers and JSON does not."""
    raise ValueError(f"{constant} is no number of JSON")


def check_json(content: Any, schema: Schema, source: str) -> None:
    """Checks that `content`, which was read as JSON from `source`, has the form that `schema` describes.

    Raises:
        UserError: it has not. The message names the first place that differs.
    """
    import jsonschema  # A tenth of a second of every start that reads none.

    try:
        error = jsonschema.exceptions.best_match(_validator()(schema).iter_errors(content))
    except RecursionError:
        raise _too_deep(source) from None
    if error is not None:
        place = error.json_path.removeprefix("$").removeprefix(".")
        raise UserError(f"{source}: {place and f'{_shortened(place)}: '}{_shortened(error.message)}")


@cache
def _validator() -> Any:
    """Returns jsonschema's validator with a `uniqueItems` of its own: theirs may compare every two items."""
    import jsonschema

    def unique(_: Any, is_set: bool, items: Any, __: Schema) -> Iterator[Exception]:
        simple = [item for item in items if isinstance(item, str | int)] if isinstance(items, list) else []
        if is_set and len(set(simple)) < len(simple):
            yield jsonschema.ValidationError(f"{items!r} has non-unique elements")

    return jsonschema.validators.extend(jsonschema.Draft202012Validator, {"uniqueItems": unique})


def _too_deep(source: str) -> UserError:
    return UserError(f"{source}: has too many brackets inside each other, expected JSON as written")


def _shortened(text: str) -> str:
    """Shows both ends of a long text. Messages of schemas end with what was expected."""
    if len(text) <= MAX_SHOWN:
        return text
    half = MAX_SHOWN // 2
    return f"{text[:half]} ... {text[-half:]}"
