"""What the benchmarks' command lines have in common."""

import argparse
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import errors
from benchmarks.rounds import Failed
from errors import UserError

DEPTHS = (18, 34, 50, 101, 152)  # of ImageNet


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Tells defaults, and leaves the lines of a module's documentation as they are."""


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has: `--device` and `--json`."""
    made = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    made.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    made.add_argument("--json", type=Path, default=None, metavar="PATH", help="write the report there too")
    return made


def training_parser(description: str, report: Path | None) -> argparse.ArgumentParser:
    """`parser` for what trains whole runs: with `--config` and `--jobs`; `report` is where `--json` goes."""
    made = parser(description)
    made.set_defaults(json=report)
    made.add_argument("--config", default="configs/signs.py", help="of main.py")
    made.add_argument(
        "--jobs", type=at_least(1), default=1, help="runs at a time, each on its share of the CPU cores"
    )
    made.epilog = "Any --config.FIELD=VALUE goes on to main.py, such as --config.num_epochs=80."
    return made


def parse_with_settings(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parses the command line; what begins with `--config.` comes back as it is."""
    options, settings = parser.parse_known_args()
    for setting in settings:
        if not setting.startswith("--config."):
            parser.error(f"unrecognized arguments: {setting}")
    return options, settings


def check_not_taken(settings: Iterable[str], taken: Collection[str]) -> None:
    """Checks that no `--config.FIELD=VALUE` of `settings` is of a field that is `taken`.

    Raises:
        UserError: one is.
    """
    for setting in settings:
        if (name := setting.removeprefix("--config.").partition("=")[0]) in taken:
            raise UserError(f"{setting}: config.{name} is what these runs set themselves; leave it out")


def at_least(low: int) -> Callable[[str], int]:
    """An option's type: a whole number, `low` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number, at least {low}")
        return int(text)

    return parse


def list_of(parse: Callable[[str], int]) -> Callable[[str], list[int]]:
    """An option's type: what `parse` takes, several times, with commas between."""
    return lambda text: [parse(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """An option's type: names with commas between."""
    return [name for name in text.split(",") if name]


def exit_code(benchmark: Callable[[], None]) -> int:
    """Runs `benchmark`; tells in one line what a user got wrong (2) or which process broke down (1)."""

    def command() -> int:
        try:
            benchmark()
        except Failed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    return errors.exit_code(command)
