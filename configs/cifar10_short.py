"""ResNet-20 on CIFAR-10 in 15 epochs, a tenth of configs/cifar10.py: our recipe for two CPU cores.

The learning rate is large. It grows for 3 epochs and then falls to zero in a line, as in Smith & Topin 2017
(arXiv:1708.07120) and in the entries of DAWNBench (Page 2018, "How to train your ResNet"). The latter also
have Nesterov's momentum, more weight decay, and label smoothing. Blocks start as the identity, which
helps at large learning rates: Goyal et al. 2017 (arXiv:1706.02677), section 5.1. Jordan 2024
(arXiv:2404.00498) also shifts by 2 pixels, and averages predictions over the image and its mirror image.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = cifar10.get_config()
    config.num_epochs = 15
    config.label_smoothing = 0.1
    config.test_time_flip = True
    config.ema_decay = 0.99
    config.augment.pad = 2
    config.model.zero_init_last = True
    config.optimizer.update(
        learning_rate=0.2,
        nesterov=True,
        weight_decay=5e-4,
        schedule="linear",
        warmup_epochs=3.0,
    )
    return config
