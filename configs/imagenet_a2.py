"""ResNet-50 on ImageNet by procedure A2 of "ResNet strikes back": 79.8 % in 300 epochs.

`python main.py --config=configs/imagenet_a2.py --config.data.dir=imagenet --workdir=runs/imagenet_a2`

Wightman et al. 2021 (arXiv:2110.00476), table 2. An update takes 2048 images, here as four batches of 512: on
their four GPUs, batch norm also saw 512 images at a time. Where memory is short, `--config.batch_size=256
--config.optimizer.accumulate=8` makes the same updates but for batch norm.

Four things differ. Repeated augmentation (three views of an image in a batch) is not implemented. RandAugment
has the magnitude 7 for all images, there it is drawn around 7 with a deviation of 0.5. Crops come from the
centre square of the image, stored at 256 pixels. And the learning rate warms up from zero and ends at zero,
there from 1e-4 and at 1e-6. As in timm's LAMB, the norm of the gradient is clipped at 1, and epsilon is 1e-6.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = imagenet.get_config()
    config.compute_dtype = "auto"
    config.num_epochs = 300
    config.batch_size = 512
    config.steps_per_call = 18  # an epoch has 2,502 steps
    config.loss.name = "sigmoid"
    config.data.crop = 0.95
    config.augment.update(
        policy="rand",
        policy_operations=2,
        policy_magnitude=7.0,
        mixup=0.1,
        cutmix=1.0,
    )
    config.model.stochastic_depth = 0.05
    config.optimizer.update(
        name="lamb",
        learning_rate=5e-3,
        schedule="cosine",
        milestones=(0.5, 0.75),  # the default, as they are for multistep alone
        warmup_epochs=5.0,
        weight_decay=0.02,
        epsilon=1e-6,
        clip_norm=1.0,
        accumulate=4,
    )
    return config
