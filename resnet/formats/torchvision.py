"""torchvision's ResNet-18 to ResNet-152, Wide ResNet and ResNeXt, and timm's networks with the same names."""

from resnet.formats.names import OI, OIHW, Format, Row, norm_rows

LEAVES = ("weight", "bias", "running_mean", "running_var")
IMAGENET = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "channel_order": "rgb",
    "image_size": 224,
    "crop": 0.875,
}
BLOCK = "layer{stage}.{block-1}."
OUR_BLOCK = "stage{stage}.block{block}."

FORMAT = Format(
    name="torchvision",
    rows=(
        Row("conv1.weight", "stem_conv.kernel", OIHW),
        *norm_rows("bn1.", "stem_norm", LEAVES),
        Row(BLOCK + "conv{i}.weight", OUR_BLOCK + "conv{i}.kernel", OIHW),
        *norm_rows(BLOCK + "bn{i}.", OUR_BLOCK + "norm{i}", LEAVES),
        Row(BLOCK + "downsample.0.weight", OUR_BLOCK + "shortcut.conv.kernel", OIHW),
        *norm_rows(BLOCK + "downsample.1.", OUR_BLOCK + "shortcut.norm", LEAVES),
        Row("fc.weight", "head.kernel", OI),
        Row("fc.bias", "head.bias"),
    ),
    model={"variant": "v1.5"},
    data=IMAGENET,
    ignored=r"(.*\.)?num_batches_tracked",
    refused={
        r"conv1\.\d.*": "a deep stem (timm's variants c, d, s and t)",
        r".*\.downsample\.2\..*": "a shortcut with average pooling (timm's variant d)",
        r".*\.se\..*": "squeeze-and-excitation (timm's seresnet)",
        r".*\.(aa|conv2_.*|convs\..*)\..*": "blocks of another family",
    },
)
