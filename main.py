"""Train, evaluate and use a residual network: `python main.py --config=configs/signs.py --workdir=runs/`."""

from resnet.signals import exit_at_signals, exit_inside_calls

if __name__ == "__main__":  # Before the other imports, which take a second.
    exit_at_signals()

from resnet.streams import ensure_utf8_names, prepare_streams

if __name__ == "__main__":
    ensure_utf8_names()
    prepare_streams()
    exit_inside_calls()

import atexit
import os
import sys
from contextlib import nullcontext

from absl import logging

import resnet
from devices import environment, hosts
from modes import load_modes
from modes.flags import Command, check, define_flags, describe_mode, expand, list_modes, parse
from resnet.errors import exit_code


def main(argv: list[str]) -> int:
    """Runs the mode that the command line asks for and returns the exit code."""
    # The warnings of Orbax, ml_collections and XLA are for us, not for the user.
    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    modes = load_modes()
    if len(argv) == 1:
        print(list_modes(modes))
        return 0
    argv = expand(argv)
    values = define_flags(argv, modes)
    arguments = parse(values, argv)
    mode = modes[values.mode]
    if values.help:
        print(describe_mode(values.mode, mode) if values["mode"].present else list_modes(modes))
        return 0
    if values.version:
        print(resnet.__version__)
        return 0
    command = Command(values.mode, mode, values, arguments)
    check(command, modes)
    settings = command.settings()
    # JAX reads the environment when it is imported, which only the mode does.
    environment.prepare(settings.gpu, compilation_cache=settings.compilation_cache, training=mode.trains)
    with hosts.together(settings.hosts) if mode.on_hosts else nullcontext():
        environment.check(on_hosts=hosts.count() > 1)
        return mode.run(command)


def run(argv: list[str]) -> int:
    """Runs the program and returns its exit code, see `exit_code`."""
    return exit_code(lambda: main(argv))


if __name__ == "__main__":
    code = run(sys.argv)
    if not code:
        atexit._run_exitfuncs()
    # When Python shuts down, a signal would kill it, and after a failed save the tasks of Orbax complain.
    os._exit(code)
