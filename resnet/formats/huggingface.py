"""Hugging Face's `ResNetForImageClassification` (`microsoft/resnet-18` ... `-152`) and `ResNetModel`."""

from typing import Any

from resnet.architecture import BOTTLENECK_EXPANSION, Architecture
from resnet.formats.names import OI, OIHW, Format, Row, norm_rows
from resnet.formats.torchvision import IMAGENET, LEAVES, OUR_BLOCK

STEM = "resnet.embedder.embedder."
BLOCK = "resnet.encoder.stages.{stage-1}.layers.{block-1}."

FORMAT = Format(
    name="huggingface",
    rows=(
        Row(STEM + "convolution.weight", "stem_conv.kernel", OIHW),
        *norm_rows(STEM + "normalization.", "stem_norm", LEAVES),
        Row(BLOCK + "layer.{i-1}.convolution.weight", OUR_BLOCK + "conv{i}.kernel", OIHW),
        *norm_rows(BLOCK + "layer.{i-1}.normalization.", OUR_BLOCK + "norm{i}", LEAVES),
        Row(BLOCK + "shortcut.convolution.weight", OUR_BLOCK + "shortcut.conv.kernel", OIHW),
        *norm_rows(BLOCK + "shortcut.normalization.", OUR_BLOCK + "shortcut.norm", LEAVES),
        Row("classifier.1.weight", "head.kernel", OI),
        Row("classifier.1.bias", "head.bias"),
    ),
    model={"variant": "v1.5"},
    data=IMAGENET,
    ignored=r".*\.num_batches_tracked",
)


def config_json(architecture: Architecture, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns transformers' `config.json` for the network of `architecture`."""
    a = architecture
    expansion = BOTTLENECK_EXPANSION if a.bottleneck else 1
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": 3,
        "embedding_size": a.stem_width or a.width,
        "hidden_sizes": [a.width * 2**stage * expansion for stage in range(len(a.blocks))],
        "depths": list(a.blocks),
        "layer_type": "bottleneck" if a.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": a.bottleneck and a.variant == "v1",
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "label2id": {name: i for i, name in enumerate(class_names)},
        "dtype": "float32",
    }


def preprocessor_json(data: dict[str, Any]) -> dict[str, Any]:
    """Returns transformers' `preprocessor_config.json` for `data`, fields of `Preprocessing`."""
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": data["image_size"]},
        "crop_pct": data["crop"],
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
    }


def fields_of_json(config: dict[str, Any], preprocessor: dict[str, Any]) -> dict[str, Any]:
    """Translates the two JSON files of transformers.

    Returns fields of `Architecture` under `model`, fields of `Preprocessing` under `data`, and `class_names`.
    Fields that the files do not mention are left out. `class_names` is empty if they have none.
    """
    model = {"variant": "v1" if config.get("downsample_in_bottleneck") else "v1.5"}
    data = {}
    size = preprocessor.get("size")
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    for field, value in {
        "mean": preprocessor.get("image_mean"),
        "std": preprocessor.get("image_std"),
        "crop": preprocessor.get("crop_pct"),
        "image_size": size,
    }.items():
        if value is not None:
            data[field] = tuple(value) if isinstance(value, list) else value
    labels = config.get("id2label") or {}
    class_names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return {"model": model, "data": data, "class_names": class_names}
