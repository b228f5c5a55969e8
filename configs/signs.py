"""ResNet-50 on SIGNS from scratch: the recipe to use.

SIGNS shows few hands before one wall. In every other image, as soon as a third of the training is done,
light, colours and noise change more than in the defaults, and half of these get another background; the
number grows until then, without which a short training learns little. Each image is standardized by itself,
so that no light or contrast is new to the network. Rendered hands, half of a batch at first and a tenth
later, are those of other people. docs/results.md has the comparisons.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = default.get_config()
    config.num_epochs = 72
    config.label_smoothing = 0.0
    config.test_time_flip = True
    config.temperature = 0.9
    config.optimizer.learning_rate = 2e-3
    config.data.standardize = "image"
    config.data.rendered_size = 6000
    config.data.variety = 0.3
    config.data.rendered_share = 0.1
    config.data.rendered_share_at_start = 0.5
    config.augment.update(
        appearance=0.5,
        ramp=0.3,
        background=0.5,
        veil=0.3,
        saturation=0.6,
        channel_gain=0.15,
        levels=0.4,
        noise=0.2,
    )
    return config
