"""What the tests of benchmarks share that train whole runs, or compare their settings."""

from typing import Any

from ml_collections import ConfigDict

from configs import rules
from tests import runs
from tests.command_line import flags_of

# Flags of a run that takes seconds and needs no files.
SMALL = flags_of(
    {
        **runs.SMALL,
        **runs.NO_RESAMPLING,
        "num_epochs": 2,
        "batch_size": 12,
        "model.depth": 16,
        "data.name": "rendered",
        "data.image_size": 32,
        "data.train_size": 24,
        "data.test_size": 12,
    }
)


def differing_fields(first: ConfigDict, second: ConfigDict) -> set[str]:
    """Returns the dotted names of the fields whose values differ."""
    fields: dict[str, Any] = dict(rules.flatten(second))
    return {name for name, value in rules.flatten(first) if value != fields[name]}
