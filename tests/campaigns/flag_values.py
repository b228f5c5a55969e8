"""Fields of a config on the command line, with values that nobody means."""

from random import Random

from configs import default
from configs.rules import flatten

VALUES = (
    "", "0", "-1", "1e39", "1e300", "nan", "inf", "-inf", "2147483648", "9223372036854775808",
    "1000000000000", "1000000000000000", "-2147483649", "1e-300", "None", "True", "x", "[]", "()", "1,1",
    "0,-1", "('a',)", "0.5", "é", "/dev/zero", "~nobody", "gs://bucket/x", "{}",
    "9" * 5000, "a" * 5000, "1_000", " 1", "0x10",
)  # fmt: skip
# A fine network, but one that takes long on a CPU; or another computer's business.
SLOW = ("gpu.visible_devices",)


def draw(rng: Random) -> str:
    """Returns a flag that sets a field to a strange value."""
    fields = sorted(name for name in dict(flatten(default.get_config())) if name not in SLOW)
    return f"--config.{rng.choice(fields)}={rng.choice(VALUES)}"
