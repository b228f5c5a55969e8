"""The well-known Keras recipe for SIGNS, for comparison.

Adam at a constant 1e-3, batches of 32, pixels / 255, no augmentation, and an L2 penalty of 0.01 on the
kernels of the stem and the head. The stride is in the first 1x1, the max-pool has no padding, and 1e-3 is
added to variances. Two things differ from the original. The initial kernels are He-normal, there Glorot-
uniform. The running statistics move by 0.1 a step, there by 0.01, which after 300 steps still keeps 5 % of
the first ones.
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
    config.augment.update(flip=0.0, rotation=0.0, scale=0.0, translation=0.0, appearance=0.0)
    config.augment.update(brightness=0.0, contrast=0.0, channel_gain=0.0)
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
