"""The `config.json` that timm keeps beside its weights."""

from typing import Any


def fields_of_json(config: dict[str, Any]) -> dict[str, Any]:
    """The `data` fields that it tells, and `class_names` if it does."""
    pretrained = config["pretrained_cfg"]
    data = {field: tuple(pretrained[field]) for field in ("mean", "std") if field in pretrained}
    if "crop_pct" in pretrained:
        data["crop"] = float(pretrained["crop_pct"])
    if "input_size" in pretrained:
        data["image_size"] = int(pretrained["input_size"][-1])
    return {"data": data, "class_names": tuple(config.get("label_names") or ())}
