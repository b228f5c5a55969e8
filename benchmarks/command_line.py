"""What the command lines of the benchmarks have in common."""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from benchmarks.rounds import Failed
from benchmarks.worker import device_variables
from resnet import errors
from resnet.errors import UserError

DEPTHS = (18, 34, 50, 101, 152)  # of ImageNet


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, and keeps the line breaks of a module's docstring."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def parser(description: str, *, device: bool = True) -> argparse.ArgumentParser:
    """Returns a parser with `--json`, and with `--device` unless `device` is False."""
    result = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    if device:
        result.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="device to measure on")
    result.add_argument("--json", type=Path, default=None, metavar="PATH", help="file for the report")
    return result


def training_parser(description: str, report: Path | None, *, device: bool = True) -> argparse.ArgumentParser:
    """Returns a `parser` for benchmarks that train whole runs, with `--config`.

    `report` is the default of `--json`.
    """
    result = parser(description, device=device)
    result.set_defaults(json=report)
    result.add_argument("--config", default="configs/signs.py", help="the config file for main.py")
    result.epilog = "Any --config.FIELD=VALUE is passed to main.py, such as --config.num_epochs=80."
    return result


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says how many runs are trained at a time."""
    parser.add_argument(
        "--jobs", type=at_least(1), default=1, help="runs at a time, each on its share of the CPU cores"
    )


def select_device(options: argparse.Namespace) -> None:
    """Lets JAX start on `options.device`, if it has not been imported yet."""
    os.environ |= device_variables(options.device)


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names photographs to measure on."""
    parser.add_argument(
        "--photographs",
        type=lambda path: str(Path(path).absolute()),
        default=None,
        metavar="PATH",
        help="folder or archive of images by class, none trained on, to measure accuracy on",
    )


def parse_with_settings(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parses the command line; returns the options, and as they are the arguments `--config.FIELD=VALUE`."""
    options, settings = parser.parse_known_args()
    for setting in settings:
        if not setting.startswith("--config."):
            parser.error(f"unrecognized arguments: {setting}")
    return options, settings


def check_not_reserved(settings: Iterable[str], reserved: Collection[str]) -> None:
    """Checks that `settings`, of the form `--config.FIELD=VALUE`, change no `reserved` field.

    Raises:
        UserError: one does.
    """
    for setting in settings:
        assignment = setting.removeprefix("--")
        if assignment.removeprefix("config.").partition("=")[0] in reserved:
            raise UserError(f"{assignment}: the benchmark sets this field itself; leave it out")


def at_least(low: int) -> Callable[[str], int]:
    """Returns the type of an option that is a whole number, `low` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number, at least {low}")
        return int(text)

    return parse


def list_of(parse: Callable[[str], int]) -> Callable[[str], list[int]]:
    """Returns the type of an option that has several values for `parse`, separated by commas."""
    return lambda text: [parse(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Parses an option that has several names, separated by commas."""
    return [name for name in text.split(",") if name]


def exit_code(benchmark: Callable[[], None]) -> int:
    """Runs `benchmark` and returns the exit code.

    It is 2 for a mistake of the user and 1 for a process that failed; either is printed in one line.
    """

    def command() -> int:
        try:
            benchmark()
        except Failed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    return errors.exit_code(command)
