"""ResNet-18 on a folder of images of your own, from scratch: some thousand images or more.

`python main.py --config=configs/folder.py --config.data.dir=photos --workdir=runs/photos`

The folder has one folder of images for each class. A tenth of the images is held out for validation and a
tenth for testing, unless the folder has such splits. With fewer images, configs/finetune.py is better.

- Small things need more pixels: `--config.data.image_size=224 --config.data.store_size=256`, which takes 12
  times as long and is for accelerators.
- Where left and right differ, as in text: `--config.augment.flip=0.0`.
- Where colours decide: `--config.augment.appearance=0.0`.
- Where classes have very different numbers of images: `--config.data.sampling=balanced`, or
  `--config.loss.class_weights=balanced`.
- With tens of thousands of images: `--config.model.depth=50`, on an accelerator `--config.batch_size=256`.

The recipe is ours. It is AdamW with a cosine (Loshchilov & Hutter 2019, arXiv:1711.05101), for more epochs
than ImageNet has, as there are fewer images. Random resized crops keep at least 0.35 of the area. On ImageNet
it is 0.08 (Szegedy et al. 2014, arXiv:1409.4842, section 6), which often loses the object.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields of the recipe."""
    config = default.get_config()
    config.num_epochs = 60
    config.data.name = "folder"
    config.data.val_fraction = 0.1
    config.data.test_fraction = 0.1
    config.data.store_size = 80  # so that crops have pixels to choose from
    config.augment.update(resized_crop=0.35, rotation=0.0, scale=0.0, translation=0.0, saturation=0.3)
    config.model.depth = 18
    config.optimizer.warmup_epochs = 3.0
    return config
