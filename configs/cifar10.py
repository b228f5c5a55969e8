"""ResNet-20 on CIFAR-10 as in He et al. 2015 (arXiv:1512.03385), section 4.2: 164 epochs, 64,000 steps.

`python main.py --config=configs/cifar10.py --config.data.dir=cifar10 --workdir=runs/cifar10`

The folder has the 50,000 training images in `train/CLASS` and the 10,000 test images in `test/CLASS`. Their
networks have `--config.model.depth` 20, 32, 44, 56 and 110, and errors of 8.75, 7.51, 7.17, 6.97 and 6.43 %
(table 6). Depth 110 needs a gentle start: theirs are 400 steps at a tenth of the learning rate, here it is
`--config.optimizer.warmup_epochs=1.0`, 390 steps in which the rate grows.

Four things differ from the paper. It subtracts the mean of each pixel; here it is the mean of each channel,
and pixels are divided by their deviation. Images are padded with black, there with the mean. Weight decay is
for kernels alone, there also for biases and norms. And the last images of an epoch that do not fill a batch
are left out.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the paper's recipe."""
    config = default.get_config()
    config.num_epochs = 164
    config.batch_size = 128
    config.steps_per_call = 39  # a tenth of an epoch
    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.data.name = "folder"
    config.data.image_size = 32
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.augment.update(flip=0.5, pad=4, rotation=0.0, scale=0.0, translation=0.0, appearance=0.0)
    config.model.update(
        depth=20,
        width=16,
        stem="3x3",
        max_pool="none",
        shortcut="zero_pad",
        zero_init_last=False,
    )
    config.optimizer.update(
        name="sgd",
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        schedule="multistep",
        milestones=(0.5, 0.75),  # after 31,980 and 47,970 of 63,960 steps
        decay_factor=0.1,
        warmup_epochs=0.0,
    )
    return config
