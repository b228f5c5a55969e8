"""ResNet-18 of half the width on rendered hands alone: the network that comes with the project.

The photographs of SIGNS state no licence, so a network that is given away learns from rendered hands of every
difficulty. As in configs/signs.py, each image is standardized by itself, colours, backgrounds and noise
change in more and more images during the first third of the training, and images are small until half of it
is done.
"""

from ml_collections import ConfigDict

from configs import rendered, signs


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = rendered.get_config()
    config.num_epochs = 18
    config.label_smoothing = 0.0
    config.test_time_flip = True
    config.ema_decay = 0.998
    config.steps_per_call = 75
    config.data.train_size = 24_000
    config.data.test_size = 1200
    config.data.variety = 1.0
    config.data.val_fraction = 0.05
    config.data.standardize = "image"
    config.augment = signs.get_config().augment
    return config
