"""Fine-tuning: starts from the weights of a run or a file, and changes them little.

On SIGNS:

`python main.py --config=configs/finetune.py --config.init_from=runs/demo --workdir=runs/finetuned`

On a folder of your own, with one folder of images for each class, from the weights of another framework:

`python main.py --config=configs/finetune.py --config.init_from=resnet50.safetensors --config.data.name=folder
--config.data.dir=photos --config.data.val_fraction=0.1 --config.data.test_fraction=0.1
--config.data.image_size=224 --workdir=runs/photos`

With fewer than a few thousand images this is better than training from scratch. The weights bring the network
and the normalisation of the images. They do best near the size of the images that they were trained on, which
is 224 for ImageNet. Without an accelerator, `--config.finetune.frozen=4` trains the last stage and the head
alone, in less time and memory.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields: a fifth of the learning rate, and less in the parts farther from the head."""
    config = default.get_config()
    config.num_epochs = 10
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_epochs = 1.0
    config.finetune.layer_decay = 0.8
    return config
