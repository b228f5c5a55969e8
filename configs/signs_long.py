"""configs/signs.py for twice as long: the recipe to use where half an hour is at hand, or a GPU.

On validation folds it is better at everything that is measured, most of all on hands of other people; the
temperature is the one that suits the logits of all five. docs/results.md has the comparison.
"""

from ml_collections import ConfigDict

from configs import signs


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = signs.get_config()
    config.num_epochs = 72
    config.temperature = 0.9
    return config
