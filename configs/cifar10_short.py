"""ResNet-20 on CIFAR-10 in 24 epochs, a seventh of configs/cifar10.py: our recipe for two CPU cores.

Muon learns more in a step than SGD (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). The first
two thirds of the training see images of 24 pixels, whose steps cost little more than half, see
`training/early_size.py`. The learning rate grows for an epoch and then falls to zero in a line. So small a
network, in so few epochs, underfits: it has no label smoothing, and its blocks do not start as the identity,
which would hold it up. Jordan 2024 (arXiv:2404.00498) also shifts by 2 pixels, and averages predictions over
the image and its mirror image. docs/experiments.md compares these choices.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = cifar10.get_config()
    config.num_epochs = 24
    config.test_time_flip = True
    config.ema_decay = 0.99
    config.augment.update(pad=2, early_size=24, early_share=0.65)
    config.optimizer.update(
        name="muon",
        learning_rate=4e-3,
        nesterov=True,
        weight_decay=0.05,
        schedule="linear",
        warmup_epochs=1.0,
    )
    return config
