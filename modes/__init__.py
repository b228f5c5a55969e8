"""What `main.py` can do: a module for each mode, with its help, flags, checks, work and tables."""

from importlib import import_module

from modes.flags import Mode

# A new mode needs its name here and a module that defines MODE; `flags.py`, `programs.py` and
# `tables.py` are shared.
# Modules import what they work with when they run: JAX reads its settings when it is imported, and `--help`
# should not wait for it.
NAMES = (
    "train",
    "eval",
    "report",
    "predict",
    "features",
    "probe",
    "summary",
    "show_batch",
    "export",
    "web",
    "audit",
    "lr_find",
)


def load_modes() -> dict[str, Mode]:
    """Returns all modes by name."""
    return {name: import_module(f"modes.{name}").MODE for name in NAMES}
