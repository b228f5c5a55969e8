"""The ResNet-50, 101 and 152 of Keras Applications, their V2 variants, and the older ResNet-50.

The older one is that of the repository `deep-learning-models`. Names are `layer/weight` whatever the layout
of the file (see `hdf5`).
"""

from collections.abc import Iterable
from typing import Any

from resnet.formats.names import Format, Row, norm_rows
from resnet.formats.torchvision import OUR_BLOCK

WEIGHTS_FILE = "model.weights.h5"  # inside of a `.keras` archive
LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
# "caffe" preprocessing: pixels from 0 to 255 less their mean, in the order blue, green, red. Here, as in
# `Preprocessing`, the mean is in the order red, green, blue and the range is 0 to 1.
CAFFE = {
    "mean": (123.68 / 255, 116.779 / 255, 103.939 / 255),
    "std": (1 / 255, 1 / 255, 1 / 255),
    "channel_order": "bgr",
    "image_size": 224,
    "crop": 0.875,
}
# "tf" preprocessing: pixels from -1 to 1.
SYMMETRIC = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "channel_order": "rgb",
    "image_size": 224,
    "crop": 0.875,
}
BLOCK = "conv{stage+1}_block{block}_"
HEAD = "predictions"  # whatever its name in a file, where it is found by its place

# Layers that Keras Applications lack, under names of our own.
EXTRA = (
    Row("conv1_{i}_conv/kernel", "stem_conv{i}.kernel"),
    *norm_rows("conv1_{i}_bn/", "stem_norm{i}", LEAVES),
    *(
        Row(f"{BLOCK}se_{part}/{leaf}", f"{OUR_BLOCK}squeeze.{part}.{leaf}")
        for part in ("reduce", "expand")
        for leaf in ("kernel", "bias")
    ),
)


def _conv_rows(foreign: str, ours: str) -> tuple[Row, ...]:
    return Row(foreign + "/kernel", ours + ".kernel"), Row(foreign + "/bias", ours + ".bias")


V1 = Format(
    name="keras",
    rows=(
        *_conv_rows("conv1_conv", "stem_conv"),
        *norm_rows("conv1_bn/", "stem_norm", LEAVES),
        *_conv_rows(BLOCK + "{i}_conv", OUR_BLOCK + "conv{i}"),
        *norm_rows(BLOCK + "{i}_bn/", OUR_BLOCK + "norm{i}", LEAVES),
        *_conv_rows(BLOCK + "0_conv", OUR_BLOCK + "shortcut.conv"),
        *norm_rows(BLOCK + "0_bn/", OUR_BLOCK + "shortcut.norm", LEAVES),
        *_conv_rows(HEAD, "head"),
        *EXTRA,
    ),
    model={"variant": "v1", "norm_epsilon": 1.001e-5},
    data=CAFFE,
)

V2 = Format(
    name="keras v2",
    rows=(
        *_conv_rows("conv1_conv", "stem_conv"),
        *norm_rows(BLOCK + "preact_bn/", OUR_BLOCK + "norm1", LEAVES),
        *_conv_rows(BLOCK + "{i}_conv", OUR_BLOCK + "conv{i}"),
        *norm_rows(BLOCK + "{i-1}_bn/", OUR_BLOCK + "norm{i}", LEAVES),
        *_conv_rows(BLOCK + "0_conv", OUR_BLOCK + "shortcut.conv"),
        *norm_rows("post_bn/", "final_norm", LEAVES),
        *_conv_rows(HEAD, "head"),
        *EXTRA,
    ),
    model={
        "variant": "v2",
        "max_pool": "zero_padded",
        "stride_in": "last_block",
        "conv_bias": True,
        "norm_epsilon": 1.001e-5,
    },
    data=SYMMETRIC,
)

# The code that was published with these files has no padding before the max-pool, and uses the epsilon that
# was the default of Keras. Later versions of it pad, see `fields_of_layers`.
OLD = Format(
    name="keras, older names",
    rows=(
        *_conv_rows("conv1", "stem_conv"),
        *norm_rows("bn_conv1/", "stem_norm", LEAVES),
        *_conv_rows("res{stage+1}{block:a}_branch2{i:a}", OUR_BLOCK + "conv{i}"),
        *norm_rows("bn{stage+1}{block:a}_branch2{i:a}/", OUR_BLOCK + "norm{i}", LEAVES),
        *_conv_rows("res{stage+1}{block:a}_branch1", OUR_BLOCK + "shortcut.conv"),
        *norm_rows("bn{stage+1}{block:a}_branch1/", OUR_BLOCK + "shortcut.norm", LEAVES),
        *_conv_rows(HEAD, "head"),
    ),
    model={"variant": "v1", "max_pool": "unpadded", "norm_epsilon": 1e-3},
    data=CAFFE,
)


def fields_of_layers(layers: Iterable[str]) -> dict[str, Any] | None:
    """Returns what the names of the layers say of a network, or None if they say nothing.

    Files of the older ResNet-50 list a layer `pool1_pad` if the network pads before its max-pool. The weights
    are the same either way.
    """
    is_padded = {"bn_conv1", "pool1_pad"} <= set(layers)
    return {"model": {"max_pool": "padded"}} if is_padded else None
