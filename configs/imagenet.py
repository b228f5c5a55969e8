"""ImageNet: the training of 90 epochs that papers compare with, and evaluation as it is published.

Weights of others, on a folder of validation images with one folder for each class:

`python main.py --mode=eval --config=configs/imagenet.py --config.init_from=resnet50.safetensors imagenet/val`

Training, on a folder with `train/CLASS` and `val/CLASS`:

`python main.py --config=configs/imagenet.py --config.data.dir=imagenet --config.compute_dtype=auto
--workdir=runs/imagenet`

The whole of ImageNet takes 252 GB at 256 pixels. What does not fit into memory is streamed from the disk, see
docs/data.md.

The recipe comes from Goyal et al. 2017 (arXiv:1706.02677), section 5.1: 0.1 for each 256 images of a batch as
learning rate, a tenth of it after 30, 60 and 80 epochs, and a warm-up of 5 epochs. A batch of B images takes
`--config.optimizer.learning_rate` 0.1 * B / 256. Two things differ: crops come from the centre square of the
image, stored at 256 pixels, and the warm-up starts at zero, there at 0.1. Later recipes add
`--config.label_smoothing=0.1` and `--config.optimizer.schedule=cosine` (He et al. 2018, arXiv:1812.01187,
section 5).

Evaluation computes in float32, so that published figures come out to the digit. For training on an
accelerator, `--config.compute_dtype=auto` is faster.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the recipe.

    Evaluation looks at the centre 224 pixels of an image whose shorter side is 256, for all weights, as do
    He et al. 2015 (arXiv:1512.03385), section 4. The weights bring the network and the normalisation.
    """
    config = default.get_config()
    config.compute_dtype = "float32"
    config.num_epochs = 90
    config.batch_size = 256
    config.steps_per_call = 36  # an epoch has 5,004 steps
    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.data.name = "folder"
    config.data.image_size = 224
    config.data.store_size = 256
    config.data.crop = 224 / 256
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.augment.update(resized_crop=0.08, rotation=0.0, scale=0.0, translation=0.0, appearance=0.0)
    config.optimizer.update(
        name="sgd",
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        schedule="multistep",
        milestones=(30 / 90, 60 / 90, 80 / 90),
        decay_factor=0.1,
        warmup_epochs=5.0,
    )
    return config
