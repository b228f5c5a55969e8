"""ResNet-50 on SIGNS from scratch: the recipe to use."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The defaults are tuned for SIGNS: all that this file needs to say."""
    return default.get_config()
