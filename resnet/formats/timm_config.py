"""The `config.json` that timm writes beside its weights."""

from typing import Any


def fields_of_json(config: dict[str, Any]) -> dict[str, Any]:
    """Translates timm's settings into fields of `Preprocessing`, under `data`, and class names.

    Fields that the file does not mention are left out. `class_names` is empty if the file has none.
    """
    pretrained = config["pretrained_cfg"]
    data: dict[str, Any] = {}
    for field in ("mean", "std"):
        if field in pretrained:
            data[field] = tuple(pretrained[field])
    if "crop_pct" in pretrained:
        data["crop"] = float(pretrained["crop_pct"])
    if "input_size" in pretrained:
        data["image_size"] = int(pretrained["input_size"][-1])
    return {"data": data, "class_names": tuple(config.get("label_names") or ())}
