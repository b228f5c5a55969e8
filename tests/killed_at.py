"""A training that is killed at a chosen moment: when it calls a function, which kills the process instead.

`python -m tests.killed_at train.init_state -- --config=configs/signs.py --workdir=runs/killed`
"""

import os
import pkgutil
import signal
import sys

import main
from devices import environment


def kill_at(function: str) -> None:
    """Replaces `function`, such as `train.init_state`, by one that kills the process, once JAX may start."""
    prepare = environment.prepare
    owner, _, name = function.rpartition(".")

    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def prepare_and_replace(*arguments: object, **keywords: object) -> None:
        prepare(*arguments, **keywords)
        target = pkgutil.resolve_name(owner)
        getattr(target, name)  # A function that is no longer there would never be called.
        setattr(target, name, kill)

    environment.prepare = prepare_and_replace


if __name__ == "__main__":
    _, moment, separator, *arguments = sys.argv
    assert separator == "--", "usage: python -m tests.killed_at MODULE.FUNCTION -- ARGUMENTS OF main.py"
    kill_at(moment)
    sys.exit(main.run(["main.py", *arguments]))
