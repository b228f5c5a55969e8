"""Evaluation on ImageNet as it is published, for weights of others, on a folder of its validation images.

`python main.py --mode=eval --config=configs/imagenet.py --config.init_from=resnet50.safetensors imagenet/val`
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields: the centre 224 pixels of an image whose shorter side is 256, for all weights.

    So do He et al. 2015 (arXiv:1512.03385), section 4. The weights bring the network and the normalisation.
    """
    config = default.get_config()
    config.compute_dtype = "float32"
    config.data.image_size = 224
    config.data.crop = 224 / 256
    return config
