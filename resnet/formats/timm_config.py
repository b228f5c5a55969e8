"""The `config.json` that timm writes beside its weights."""

from typing import Any

from resnet.errors import UserError
from resnet.json_files import Schema, check_json
from resnet.preprocessing import BOUNDS

# Networks whose arrays and computation are torchvision's, with their depth. Others have arrays of the same
# names, but compute with them differently: resnetblur50, resnetaa50, resnet50_gn, ecaresnet50d, ...
PLAIN = {
    **{f"resnet{depth}": depth for depth in (18, 34, 50, 101, 152, 200)},
    **{f"wide_resnet{depth}_2": depth for depth in (50, 101)},
    "resnext50_32x4d": 50,
    **{f"resnext101_{kind}": 101 for kind in ("32x4d", "32x8d", "32x16d", "32x32d", "64x4d")},
    # Names of older versions for weights from elsewhere.
    **{f"tv_resnet{depth}": depth for depth in (34, 50, 101, 152)},
    "tv_resnext50_32x4d": 50,
    **{f"gluon_resnet{depth}_v1b": depth for depth in (18, 34, 50, 101, 152)},
    "gluon_resnext50_32x4d": 50,
    **{f"gluon_resnext101_{kind}": 101 for kind in ("32x4d", "64x4d")},
    **{f"ig_resnext101_{kind}": 101 for kind in ("32x8d", "32x16d", "32x32d", "32x48d")},
    **{f"{kind}_resnet{depth}": depth for kind in ("ssl", "swsl") for depth in (18, 50)},
    **{f"{kind}_resnext50_32x4d": 50 for kind in ("ssl", "swsl")},
    **{f"{kind}_resnext101_{size}": 101 for kind in ("ssl", "swsl") for size in ("32x4d", "32x8d", "32x16d")},
}

_ANYTHING: Schema = {}
_NUMBER = {"type": "number"}
CROP_PCT: Schema = {"type": "number", "minimum": BOUNDS["crop"][0], "maximum": BOUNDS["crop"][1]}
LARGEST_SIDE = 100_000  # pixels of a picture; quotients of larger numbers may be infinite
_THREE_NUMBERS = {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}
_COUNT = {"type": "integer", "minimum": 0}
_AVERAGE = {"enum": ["avg", "fast"]}
# Names by their numbers, see `names_by_number`.
NUMBERED_NAMES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "propertyNames": {"pattern": "^\\d{1,9}$"},
}
_LABELS = {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "string"}}, NUMBERED_NAMES]}


def _harmless(names: str) -> Schema:
    return dict.fromkeys(names.split(), _ANYTHING)


# What the function that makes a network may be given. The shapes of the arrays show the first of these.
MODEL_ARGS: Schema = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        **_harmless("layers channels cardinality base_width stem_width"),
        "num_classes": _COUNT,
        # These matter in training, or in memory.
        **_harmless("drop_rate drop_path_rate drop_block_rate zero_init_last pretrained device dtype"),
        "in_chans": {"const": 3},
        "global_pool": _AVERAGE,
        "output_stride": {"const": 32},
        "stem_type": {"enum": ["", None]},
        "replace_stem_pool": {"enum": [False, None]},
        "avg_down": {"enum": [False, None]},
        "block_reduce_first": {"const": 1},
        "down_kernel_size": {"const": 1},
        "act_layer": {"enum": ["relu", None]},
        "norm_layer": {"enum": ["batchnorm2d", "batchnorm", None]},
        "aa_layer": {"enum": ["", None]},
        "block_args": {"enum": [{}, None]},
    },
}
PRETRAINED: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        # Where the weights came from.
        **_harmless("url file hf_hub_id hf_hub_filename source tag license description origin_url"),
        **_harmless("paper_name paper_ids notes label_descriptions num_features"),
        # What another size of images would need, and timm's own recommendation for a test at a larger one.
        **_harmless("test_input_size test_crop_pct min_input_size fixed_input_size pool_size test_pool_size"),
        "architecture": {"enum": [*PLAIN, None]},
        "input_size": {**_THREE_NUMBERS, "items": {"type": "integer", "minimum": 1, "maximum": LARGEST_SIDE}},
        "interpolation": {"enum": ["bicubic", "bilinear", "lanczos"]},
        "crop_pct": CROP_PCT,
        "crop_mode": {"enum": ["center", "squash"]},
        "mean": _THREE_NUMBERS,
        "std": _THREE_NUMBERS,
        "num_classes": _COUNT,
        "label_names": _LABELS,
        "label_offset": {"enum": [0, None]},
        "custom_load": {"const": False},
        "first_conv": {"enum": ["conv1", None]},
        "classifier": {"enum": ["fc", None]},
    },
}
_TOP = {
    "architecture": {"enum": list(PLAIN)},
    "num_classes": _COUNT,
    "global_pool": _AVERAGE,
    "label_names": _LABELS,
    "labels": _LABELS,
    "model_args": MODEL_ARGS,
    **_harmless("num_features label_descriptions"),
    # transformers' wrapper of timm's networks adds these.
    "model_type": {"const": "timm_wrapper"},
    "problem_type": {"enum": [None, "single_label_classification"]},
    "do_pooling": {"const": True},
    **_harmless("architectures dtype torch_dtype transformers_version initializer_range"),
}
CONFIG: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["architecture", "pretrained_cfg"],
    "properties": {**_TOP, "pretrained_cfg": PRETRAINED},
}
# The first versions wrote both parts as one.
FLAT: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["architecture"],
    "properties": {**PRETRAINED["properties"], **_TOP},
}


def is_timm(config: dict[str, Any]) -> bool:
    """Returns whether `config` is timm's rather than another program's."""
    return "architecture" in config or "pretrained_cfg" in config


def fields_of_json(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Translates timm's settings into fields of `Architecture`, under `model`, of `Preprocessing` and labels.

    Fields that the file does not mention are left out, among them `class_names`. `source` names the file.

    Raises:
        UserError: a field is not known, or asks for what is not computed here.
    """
    check_json(config, CONFIG if "pretrained_cfg" in config else FLAT, source)
    pretrained = config.get("pretrained_cfg", config)
    data: dict[str, Any] = {"image_size": 224, "crop": 0.875, "resample": "bicubic"}  # timm's defaults
    for field, ours in {
        "mean": "mean",
        "std": "std",
        "crop_pct": "crop",
        "interpolation": "resample",
    }.items():
        if field in pretrained:
            data[ours] = pretrained[field]
    if "input_size" in pretrained:
        channels, height, width = pretrained["input_size"]
        if channels != 3 or height != width:
            raise UserError(
                f"{source}: pretrained_cfg.input_size={[channels, height, width]}: expected three channels"
                " and a square"
            )
        data["image_size"] = height
    data["crop"] = crop_share(data["image_size"], data["crop"])
    data["fit"] = "stretch" if pretrained.get("crop_mode") == "squash" else "crop"
    described: dict[str, Any] = {"model": {"depth": PLAIN[config["architecture"]]}, "data": data}
    # What stands at the top overrides pretrained_cfg, which may describe the weights before fine-tuning.
    labels, earlier = config.get("label_names") or config.get("labels"), pretrained.get("label_names") or ()
    if not labels and config.get("num_classes", len(earlier)) == len(earlier):
        labels = earlier
    if labels:
        described["class_names"] = _class_names(labels, source)
    counts = ({**pretrained, **config}, config.get("model_args") or {})
    described["classes"] = {part["num_classes"] for part in counts if "num_classes" in part}
    return described


def crop_share(size: int, crop: float) -> float:
    """Returns a share of the scaled side that is `size / crop`, rounded down as other frameworks do."""
    side = int(size / crop)
    return crop if side == int(round(size / crop, 6)) else size / side


def _class_names(labels: list[str] | dict[str, str], source: str) -> tuple[str, ...]:
    if isinstance(labels, list):
        return tuple(labels)
    return names_by_number(labels, f"{source}: label_names")


def names_by_number(labels: dict[str, str], source: str) -> tuple[str, ...]:
    """Returns the names in the order of their numbers, which are the keys.

    Raises:
        UserError: the numbers are not 0, 1, 2, ...
    """
    by_number = {int(key): name for key, name in labels.items()}
    if len(by_number) < len(labels) or sorted(by_number) != list(range(len(labels))):
        raise UserError(f"{source}: has gaps in its numbers, or one twice; expected 0 to {len(labels) - 1}")
    return tuple(by_number[number] for number in range(len(by_number)))
