"""configs/signs.py in half of the time, for a quick look.

On validation folds it makes about 1.5 times as many mistakes, and it is worse at hands of other people. Its
temperature was chosen on these folds. docs/experiments.md has the comparison.
"""

from ml_collections import ConfigDict

from configs import signs


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = signs.get_config()
    config.num_epochs = 36
    config.temperature = 0.7
    return config
