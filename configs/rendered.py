"""ResNet-18 of half the width on rendered signs: no download, and done within minutes on a laptop's CPU."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the demo.

    Rendered hands differ more among themselves than those of SIGNS do: more images of them, in a
    network that runs through them six times as fast, teach more in the same time. They are easy
    to medium ones, as the hardest take far more steps to learn anything from.
    """
    config = default.get_config()
    config.num_epochs = 10
    config.steps_per_call = 47
    config.data.name = "rendered"
    config.data.train_size = 6000
    config.data.variety = 0.3
    config.model.depth = 18
    config.model.width = 32
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_epochs = 1.0
    return config
