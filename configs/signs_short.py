"""configs/signs.py in half of the time, for a quick look: it makes more mistakes."""

from ml_collections import ConfigDict

from configs import signs


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = signs.get_config()
    config.num_epochs = 53
    return config
