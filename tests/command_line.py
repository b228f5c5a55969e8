"""The command line in tests: main.py in this process or in one of its own, and what it printed."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import main
from tests.runs import SMALL

ROOT = Path(main.__file__).parent
DEFAULT_CONFIG = f"--config={ROOT / 'configs' / 'default.py'}"


class Result(NamedTuple):
    """The exit code and what went to the terminal."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def flags_of(fields: Mapping[str, object]) -> list[str]:
    """Returns the flags that set the fields of a config, by their dotted names."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


# A short training of a small network.
SHORT_TRAINING = [
    DEFAULT_CONFIG,
    *flags_of(SMALL | {"num_epochs": 2, "batch_size": 12, "compilation_cache": False}),
]


def run_main(*arguments: object) -> int:
    """Runs main.py with these arguments, in this process, and returns its exit code.

    What it puts into the environment for JAX is undone.
    """
    # ml_collections runs a second config file on top of the first one's names.
    sys.modules.pop("config_config", None)
    with mock.patch.dict(os.environ):
        return main.run(["main.py", *map(str, arguments)])


def run_program(
    *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments, such as `main.py --help`, in the project's folder, on the CPU."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment or os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_succeeded(result: Result) -> None:
    """Asserts that the program ended well and printed no warning."""
    assert (result.code, result.err) == (0, "")


def assert_refused(result: Result, *parts: str) -> None:
    """Asserts that the program printed one line of error, with all of `parts`, and nothing else."""
    assert result.code == 2
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
