"""How a network takes its images and gives its predictions: what travels with its weights."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from resnet.fields import Bounds, check_fields, check_three_numbers

Standardize = Literal["none", "image", "channel"]
ChannelOrder = Literal["rgb", "bgr"]
Fit = Literal["crop", "pad", "stretch"]
Resample = Literal["bicubic", "bilinear", "lanczos"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "standardize": get_args(Standardize),
    "channel_order": get_args(ChannelOrder),
    "fit": get_args(Fit),
    "resample": get_args(Resample),
}
BOUNDS: dict[str, Bounds] = {
    "image_size": (1, 2048),  # Twice that takes 9 GB after the first convolution, for eight images.
    "crop": (0.05, 1),
    "temperature": (0.01, 100),
}
# Pixels lie between 0 and 1. Beyond these, float32 cannot tell them apart, or the network's sums overflow.
MEAN_BOUNDS = (-1000.0, 1000.0)
STD_BOUNDS = (1e-6, 1e6)
NORMALIZATION = ("mean", "std", "standardize", "channel_order")  # what is done to the pixels' values
PREPARATION = (*NORMALIZATION, "image_size", "fit", "crop")  # what a network needs done to its images
PREDICTION = ("test_time_flip", "temperature")  # what is done to the logits
FROM_WEIGHTS = ("resample",)  # what a config does not set, as training has one value of it


@dataclass(frozen=True)
class Preprocessing:
    """From pictures to a network's input, and from its logits to its predictions.

    - `mean`, `std`: subtracted from pixels in [0, 1], and dividing them; in the order red, green, blue.
    - `standardize`: `image` or `channel` take the mean and deviation of each image, or of each of its
      channels, in place of `mean` and `std`.
    - `channel_order`: the order in which the network takes the channels.
    - `image_size`: side of its images in pixels.
    - `fit`: how a picture becomes a square. `crop` cuts out its centre, `pad` adds grey at its shorter side,
      and `stretch` changes its aspect ratio.
    - `crop`: side of the centre square that is cut from the scaled picture, as a share of it.
    - `resample`: the filter that resizes pictures for a prediction. Training always uses `bicubic`.
    - `test_time_flip`: whether to predict by the mean of the logits of an image and its mirror image.
    - `temperature`: divides the logits (Guo et al. 2017, arXiv:1706.04599, section 4.2).
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    standardize: Standardize = "none"
    channel_order: ChannelOrder = "rgb"
    image_size: int = 64
    fit: Fit = "crop"
    crop: float = 1.0
    resample: Resample = "bicubic"
    test_time_flip: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            UserError: a field has another type or is out of range.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        check_fields(values, defaults, CHOICES, BOUNDS)
        check_three_numbers("mean", self.mean, (0.5, 0.5, 0.5), MEAN_BOUNDS)
        check_three_numbers("std", self.std, (0.25, 0.25, 0.25), STD_BOUNDS)
