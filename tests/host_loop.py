"""Hosts that do nothing but agree, again and again: the smallest program that they can run together.

`python -m tests.host_loop --config=configs/default.py --config.hosts...` prints `together` once they are.
`--config.seed=1` lets this host find a mistake of the user, and `--config.seed=2` an error of the program.
"""

import os
import sys
import time

from devices import hosts
from modes import load_modes
from modes.flags import define_flags, parse
from resnet.errors import UserError, exit_code
from resnet.signals import exit_at_signals, exit_inside_calls
from resnet.streams import prepare_streams


def main(argv: list[str]) -> None:
    """Agrees until something ends it."""
    values = define_flags(argv, load_modes())
    parse(values, argv)
    with hosts.together(values.config.hosts):
        hosts.largest(0)
        print("together", flush=True)
        if values.config.seed == 1:
            raise UserError("config.data.dir=/nowhere: no such folder")
        if values.config.seed == 2:
            raise ValueError("of the program")
        while True:
            hosts.largest(0)
            time.sleep(0.05)


if __name__ == "__main__":
    exit_at_signals()
    prepare_streams()
    exit_inside_calls()
    os._exit(exit_code(lambda: main(sys.argv)))
