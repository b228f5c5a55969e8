"""The well-known Keras recipe for SIGNS, for comparison.

Adam at a constant 1e-3, batch 32, pixels / 255, no augmentation, and an L2 penalty of 0.01 on the kernels
of the stem and the head; stride in the 1x1, max-pool without padding, 1e-3 added to variances. Other than
in the original are the initial kernels (He-normal, there Glorot-uniform), and the running statistics that
evaluation uses: they move by 0.1 a step, there by 0.01, which after 300 steps keeps 5 % of where it began.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the original, 20 epochs."""
    config = default.get_config()
    config.num_epochs = 20
    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.data.mean = (0.0, 0.0, 0.0)
    config.data.std = (1.0, 1.0, 1.0)
    config.augment.update(dict.fromkeys(config.augment, 0.0))
    config.model.variant = "v1"
    config.model.max_pool = "unpadded"
    config.model.norm_epsilon = 1e-3
    config.model.zero_init_last = False
    config.optimizer.name = "adam"
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.l2_stem_and_head = 0.01
    return config
