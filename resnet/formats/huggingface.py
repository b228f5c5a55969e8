"""Hugging Face's `ResNetForImageClassification` (`microsoft/resnet-18` ... `-152`) and `ResNetModel`."""

from typing import Any

from resnet.architecture import BOTTLENECK_EXPANSION, STAGES, Architecture
from resnet.errors import UserError
from resnet.fields import LARGEST
from resnet.formats.names import OI, OIHW, Format, Row, norm_rows
from resnet.formats.timm_config import CROP_PCT, LARGEST_SIDE, NUMBERED_NAMES, crop_share, names_by_number
from resnet.formats.torchvision import IMAGENET, LEAVES, OUR_BLOCK
from resnet.json_files import Schema, check_json
from resnet.preprocessing import Preprocessing

STEM = "embedder.embedder."
BLOCK = "encoder.stages.{stage-1}.layers.{block-1}."
NAME = "huggingface"


def _format(prefix: str) -> Format:
    stem, block = prefix + STEM, prefix + BLOCK
    return Format(
        name=NAME,
        rows=(
            Row(stem + "convolution.weight", "stem_conv.kernel", OIHW),
            *norm_rows(stem + "normalization.", "stem_norm", LEAVES),
            Row(block + "layer.{i-1}.convolution.weight", OUR_BLOCK + "conv{i}.kernel", OIHW),
            *norm_rows(block + "layer.{i-1}.normalization.", OUR_BLOCK + "norm{i}", LEAVES),
            Row(block + "shortcut.convolution.weight", OUR_BLOCK + "shortcut.conv.kernel", OIHW),
            *norm_rows(block + "shortcut.normalization.", OUR_BLOCK + "shortcut.norm", LEAVES),
            Row("classifier.1.weight", "head.kernel", OI),
            Row("classifier.1.bias", "head.bias"),
        ),
        model={"variant": "v1.5"},
        data=IMAGENET,
        ignored=r".*\.num_batches_tracked",
    )


FORMAT = _format("resnet.")
MODEL = _format("")  # `ResNetModel`, the network without its head


def config_json(architecture: Architecture, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns transformers' `config.json` for a network of `architecture`, with a head for `class_names`."""
    a = architecture
    expansion = BOTTLENECK_EXPANSION if a.bottleneck else 1
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification" if class_names else "ResNetModel"],
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


# Fields of transformers' `config.json` that do not change what is computed, or only what a program prints.
HARMLESS = """
    _name_or_path name_or_path architectures transformers_version return_dict use_return_dict stage_names
    out_features out_indices output_attentions output_hidden_states torchscript use_bfloat16 dtype
    torch_dtype label2id finetuning_task task_specific_params tokenizer_class prefix bos_token_id pad_token_id
    eos_token_id sep_token_id decoder_start_token_id is_encoder_decoder is_decoder cross_attention_hidden_size
    add_cross_attention tie_encoder_decoder tie_word_embeddings chunk_size_feed_forward pruned_heads
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature
    top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids num_return_sequences output_scores return_dict_in_generate forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens tf_legacy_loss _attn_implementation_autoset _commit_hash initializer_range
"""
HARMLESS_OF_PROCESSORS = """
    processor_class _processor_class _valid_processor_keys _valid_kwargs_names do_convert_rgb data_format
    input_data_format device return_tensors disable_grouping image_seq_length
"""
_ANYTHING: Schema = {}
_COUNT = {"type": "integer", "minimum": 1}
_COUNTS = {"type": "array", "items": _COUNT, "minItems": 1}
_OFF = {"enum": [False, None]}
CONFIG: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(HARMLESS.split(), _ANYTHING),
        "model_type": {"const": "resnet"},
        "num_channels": {"const": 3},
        "embedding_size": _COUNT,
        "hidden_sizes": _COUNTS,
        "depths": _COUNTS,
        "layer_type": {"enum": ["basic", "bottleneck"]},
        "hidden_act": {"const": "relu"},
        "downsample_in_first_stage": {"const": False},
        "downsample_in_bottleneck": {"type": "boolean"},
        "id2label": {"anyOf": [NUMBERED_NAMES, {"type": "null"}]},
        "num_labels": {"type": "integer", "minimum": 0},
        # Others are not answered by a softmax.
        "problem_type": {"enum": ["single_label_classification", None]},
    },
}


def fields_of_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Translates transformers' `config.json`.

    Returns fields of `Architecture` under `model`, and `class_names` if there are some. `source` names the
    file.

    Raises:
        UserError: a field is not known, or asks for what is not computed here.
    """
    check_json(config, CONFIG, source)
    bottleneck = config.get("layer_type", "bottleneck") == "bottleneck"
    depths, sizes = config.get("depths", [3, 4, 6, 3]), config.get("hidden_sizes", [256, 512, 1024, 2048])
    expansion = BOTTLENECK_EXPANSION if bottleneck else 1
    stages = (tuple(depths), "bottleneck" if bottleneck else "basic")
    depth = next((depth for depth, known in STAGES.items() if known == stages), None)
    if depth is None or len(depths) != 4:
        known = ", ".join(str(list(blocks)) for blocks, kind in STAGES.values() if kind == stages[1])
        raise UserError(f"{source}: depths={depths}: no such network here; expected one of {known}")
    width = sizes[0] // expansion
    if sizes != [width * expansion * 2**stage for stage in range(4)]:
        raise UserError(f"{source}: hidden_sizes={sizes}: expected each to be twice the one before")
    stem_width = config.get("embedding_size", 64)
    model: dict[str, Any] = {
        "depth": depth,
        "width": width,
        "stem_width": 0 if stem_width == width else stem_width,
    }
    if bottleneck:  # Networks of basic blocks are the same in v1 and v1.5.
        model["variant"] = "v1" if config.get("downsample_in_bottleneck") else "v1.5"
    described: dict[str, Any] = {"model": model, "classes": set()}
    if config.get("id2label"):
        described["class_names"] = names = names_by_number(config["id2label"], f"{source}: id2label")
        if config.get("num_labels", len(names)) != len(names):
            raise UserError(
                f"{source}: num_labels={config['num_labels']}, but id2label has {len(names)} names; expected"
                " the same number; correct the one that is wrong"
            )
    elif "num_labels" in config:
        described["classes"] = {config["num_labels"]}
    return described


# What the processors do where their file says nothing.
_STANDARD = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
_CLIP = {
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "do_center_crop": True,
    "crop_size": 224,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ConvNext": {
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "crop_pct": 224 / 256,
        "resample": 3,
    },
    "ViT": {"size": {"height": 224, "width": 224}, "default_to_square": True, "resample": 2},
    "Bit": _CLIP,
    "CLIP": _CLIP,
}
_TYPES = [
    name + ending
    for name in PROCESSORS
    for ending in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
]
_SIDE = {"type": "integer", "minimum": 1, "maximum": LARGEST_SIDE}
_SQUARE = {
    "anyOf": [
        _SIDE,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["height", "width"],
            "properties": {"height": _SIDE, "width": _SIDE},
        },
    ]
}
_SHORTEST = {
    "type": "object",
    "additionalProperties": False,
    "required": ["shortest_edge"],
    "properties": {"shortest_edge": _SIDE},
}
_VALUE = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
_STATISTIC = {"anyOf": [_VALUE, {"type": "array", "items": _VALUE, "minItems": 3, "maxItems": 3}]}
_SWITCH = {"type": ["boolean", "null"]}
FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # by the numbers of Pillow
PREPROCESSOR: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(HARMLESS_OF_PROCESSORS.split(), _ANYTHING),
        "image_processor_type": {"enum": [*_TYPES, None]},
        "feature_extractor_type": {"enum": [*_TYPES, None]},
        "do_resize": {"enum": [True, None]},
        "size": {"anyOf": [*_SQUARE["anyOf"], _SHORTEST]},
        "default_to_square": _SWITCH,
        "crop_pct": {**CROP_PCT, "type": ["number", "null"]},
        "resample": {"enum": [*FILTERS, None]},
        "do_center_crop": _SWITCH,
        "crop_size": {"anyOf": [*_SQUARE["anyOf"], {"type": "null"}]},
        "do_rescale": _SWITCH,
        "rescale_factor": {"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST},
        "do_normalize": _SWITCH,
        "image_mean": _STATISTIC,
        "image_std": _STATISTIC,
        "do_pad": _OFF,
        "pad_size": {"type": "null"},
        "do_flip_channel_order": _OFF,
        "rescale_offset": _OFF,
    },
}
_WARPED = 384  # From this size on, ConvNext's processor stretches pictures to a square.


def has_preprocessor(preprocessing: Preprocessing) -> bool:
    """Returns whether a processor of transformers can prepare pictures as `preprocessing` says.

    They normalise by fixed numbers, and those that `preprocessor_json` describes crop to a square.
    """
    return preprocessing.standardize == "none" and preprocessing.fit == "crop"


def preprocessor_json(data: dict[str, Any]) -> dict[str, Any]:
    """Returns transformers' `preprocessor_config.json` for `data`, fields of `Preprocessing`."""
    size, crop = data["image_size"], data["crop"]
    side = int(round(size / crop, 6))
    if size < _WARPED and side == int(size / crop):
        square = {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": size},
            "crop_pct": crop,
        }
    else:
        square = {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": side},
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
        }
    return {
        **square,
        "do_resize": True,
        "resample": next(number for number, name in FILTERS.items() if name == data["resample"]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
    }


def fields_of_preprocessor(preprocessor: dict[str, Any], source: str) -> dict[str, Any]:
    """Translates transformers' `preprocessor_config.json` into fields of `Preprocessing`, under `data`.

    `source` names the file.

    Raises:
        UserError: a field is not known, or asks for what is not computed here.
    """
    check_json(preprocessor, PREPROCESSOR, source)
    kind = preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or _TYPES[0]
    processor = next(name for name in PROCESSORS if kind.startswith(name))
    given = {name: value for name, value in preprocessor.items() if value is not None}
    settings = {**_STANDARD, **PROCESSORS[processor], **given}
    square = _convnext_square if processor == "ConvNext" else _square
    resample = FILTERS[settings["resample"]]
    return {"data": {**square(settings, source), **_normalization(settings), "resample": resample}}


def _normalization(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the mean and deviation of pixels from 0 to 1."""

    def three(value: float | list[float]) -> list[float]:
        return list(value) if isinstance(value, list) else [value] * 3

    normalizes = settings.get("do_normalize", True)
    mean = three(settings["image_mean"] if normalizes else 0.0)
    std = three(settings["image_std"] if normalizes else 1.0)
    # Theirs are those of pixels from 0 to 255 times this factor.
    scale = 255 * (settings["rescale_factor"] if settings.get("do_rescale", True) else 1.0)
    if abs(scale - 1) > 1e-9:
        mean, std = [value / scale for value in mean], [value / scale for value in std]
    return {"mean": tuple(mean), "std": tuple(std)}


def _convnext_square(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns how ConvNext's processor makes a picture a square."""
    size = settings["size"]
    if not isinstance(size, dict) and not settings["default_to_square"]:
        size = {"shortest_edge": size}
    if not isinstance(size, dict) or "shortest_edge" not in size:
        raise UserError(
            f"{source}: size={size}: expected a shortest_edge, as ConvNextImageProcessor takes no other"
        )
    side = size["shortest_edge"]
    if settings.get("do_center_crop") and _side(settings.get("crop_size"), "crop_size", source) != side:
        raise UserError(
            f"{source}: crop_size={settings.get('crop_size')}: crops once more; expected do_center_crop=false"
        )
    if side >= _WARPED:
        return {"image_size": side, "fit": "stretch", "crop": 1.0}
    return {"image_size": side, "fit": "crop", "crop": crop_share(side, settings["crop_pct"])}


def _square(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns how the other processors make a picture a square: they resize it, and may crop its centre."""
    size, crops = settings["size"], settings.get("do_center_crop", False)
    if not isinstance(size, dict) and not settings["default_to_square"]:
        size = {"shortest_edge": size}
    stretched = not isinstance(size, dict) or "shortest_edge" not in size
    side = _side(size, "size", source) if stretched else size["shortest_edge"]
    if not crops and not stretched:
        raise UserError(f"{source}: do_center_crop=false: pictures would keep their shape; expected a square")
    image_size = _side(settings.get("crop_size"), "crop_size", source) if crops else side
    if image_size > side:
        raise UserError(
            f"{source}: crop_size={image_size}: is larger than size={side}; expected at most that"
        )
    return {"image_size": image_size, "fit": "stretch" if stretched else "crop", "crop": image_size / side}


def _side(size: Any, name: str, source: str) -> int:
    """Returns the side of a square that a number, or a height and a width, describe."""
    if isinstance(size, dict) and len(set(size.values())) == 1:
        size = next(iter(size.values()))
    if not isinstance(size, int):  # In JSON, 224.0 is a whole number too.
        raise UserError(f"{source}: {name}={size}: expected a square, its side a whole number such as 224")
    return size
