"""The command line of main.py, parsed as main.py does it. Nothing here imports JAX."""

import sys
from collections.abc import Sequence

from modes import load_modes
from modes.flags import Command, define_flags, parse


def parse_command(arguments: Sequence[str]) -> Command:
    """Returns the command that main.py would run for these `arguments`.

    Raises:
        UserError: a flag or the config file cannot be used.
    """
    argv = ["main.py", *arguments]
    modes = load_modes()
    values = define_flags(argv, modes)
    # ml_collections keeps a config file as a module, and would run the next one on top of it.
    sys.modules.pop("config_config", None)
    rest = parse(values, argv)
    return Command(values.mode, modes[values.mode], values, rest)
