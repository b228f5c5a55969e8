"""ResNet-18 of half the width on rendered hands: no download, and minutes on the CPU of a laptop."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the demo.

    Rendered hands differ more from each other than the hands of SIGNS do. In the same time, more images and
    a network that is several times as fast therefore give a better result. The images are of low to medium
    difficulty, because learning from the hardest ones takes far more steps.
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
