"""ResNet-50 on SIGNS from scratch: the recipe to use.

SIGNS shows few hands in front of one wall. So light, colours and noise change more than by default, in half
of the images, and half of these get another background. Their number grows during the first third of the
training; without this, a short training learns little. Each image is standardized by itself, so that no light
or contrast is new to the network.

At first a batch has rendered hands of other people alone. During the same third their share falls to a half.
Until half of the training is done, images have 32 pixels a side. That is enough to learn much of what there
is to learn, and in the same time more hands are seen. docs/experiments.md has the comparisons,
docs/results.md the results.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = default.get_config()
    config.num_epochs = 106
    config.label_smoothing = 0.0
    config.test_time_flip = True
    config.optimizer.learning_rate = 2e-3
    config.data.standardize = "image"
    config.data.rendered_size = 12_000
    config.data.rendered_share = 0.5
    config.data.rendered_share_at_start = 1.0
    config.augment.update(
        appearance=0.5,
        ramp=0.3,
        background=0.5,
        veil=0.3,
        saturation=0.6,
        channel_gain=0.15,
        levels=0.4,
        noise=0.2,
        early_size=32,
        early_share=0.5,
    )
    return config
