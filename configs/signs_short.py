"""configs/signs.py in half of the time, for a quick look.

It makes half as many mistakes again on validation folds, and knows less of other people's hands; the
temperature is the one that suits its logits there. docs/results.md has the comparison.
"""

from ml_collections import ConfigDict

from configs import signs


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = signs.get_config()
    config.num_epochs = 36
    config.temperature = 0.7
    return config
