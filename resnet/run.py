"""A trained run on disk: what the library reads of its `config.json`, and the folders of its seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.json_files import Schema, read_json
from resnet.preprocessing import PREDICTION, PREPARATION, Preprocessing

if TYPE_CHECKING:  # They import JAX, which must not start before the command line has read its settings.
    from resnet.network import ComputeDtype
    from resnet.ops.convolution import Lowering

CONFIG_FILE = "config.json"
CONFIG_FILE_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "config": {
            "type": "object",
            "properties": {
                "model": {
                    "type": "object",
                    "properties": {"convolution": {"enum": ["auto", "lax", "matmul", "patches"]}},
                },
                "data": {"type": "object"},
                "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "uniqueItems": True},
                "ema_decay": {"type": "number"},
                "compute_dtype": {"enum": ["auto", "float32", "bfloat16"]},
            },
        },
        "class_names": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 1},
        "data_digest": {"type": "string"},
        "init_digest": {"type": "string"},
        "table_digest": {"type": "string"},
    },
    "required": ["config", "class_names"],
    "additionalProperties": False,
}
# Fields that say what a run is trained on and how. What its network computes does not depend on them.
TRAINING_FIELDS = {
    "": (
        "seed", "seeds_together", "num_epochs", "batch_size", "steps_per_call", "compilation_cache",
        "init_from", "init_head", "augment", "optimizer", "finetune", "loss",
        "label_smoothing", "checkpoint", "gpu", "hosts",
    ),
    "data.": (
        "name", "dir", "seed", "variety", "train_size", "test_size", "rendered_size", "rendered_share",
        "rendered_share_at_start", "store_size", "placement", "loader_processes", "unreadable", "sampling",
        "test_fraction", "val_fraction", "folds", "fold", "folds_of", "split_seed",
    ),
    "model.": ("stochastic_depth",),
}  # fmt: skip
NETWORK_FIELDS = {
    "": ("model", "data", "seeds", "ema_decay", "compute_dtype", *PREDICTION),
    "data.": PREPARATION,
    "model.": ("convolution", *(field.name for field in fields(Architecture))),
}


class StoredRun(NamedTuple):
    """The network that a run trained, as its `config.json` describes it.

    `seeds` is empty for a run of a single seed. `keeps_average` says whether its checkpoints hold a moving
    average of the weights.
    """

    architecture: Architecture
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    seeds: tuple[int, ...]
    keeps_average: bool
    compute_dtype: "ComputeDtype"
    convolution: "Lowering"


def read_config_file(workdir: Path) -> dict[str, Any]:
    """Returns the content of the `config.json` in `workdir`, of the form of `CONFIG_FILE_SCHEMA`.

    Raises:
        UserError: there is no run in `workdir`, or the file is damaged.
    """
    try:
        return read_json(workdir / CONFIG_FILE, CONFIG_FILE_SCHEMA)
    except FileNotFoundError:
        raise UserError(
            f"{workdir}: no trained run here ({CONFIG_FILE} is missing);"
            f" train one with: python main.py --config=configs/signs.py --workdir={workdir}"
        ) from None


def read_run(workdir: Path) -> StoredRun:
    """Reads the description of the run in `workdir`. Fields that are missing have their defaults.

    Raises:
        UserError: there is no run in `workdir`, or its `config.json` is damaged or has an unknown field.
    """
    stored = read_config_file(workdir)
    config = stored["config"]
    model, data = config.get("model", {}), config.get("data", {})
    for prefix, section in {"": config, "data.": data, "model.": model}.items():
        for name in section.keys() - {*TRAINING_FIELDS[prefix], *NETWORK_FIELDS[prefix]}:
            raise UserError(
                f"{workdir / CONFIG_FILE}: config.{prefix}{name}: no such field in this version, which cannot"
                " tell what it changes; use the version that wrote it"
            )
    preparation = {name: data[name] for name in PREPARATION if name in data}
    preparation |= {name: config[name] for name in PREDICTION if name in config}
    described = {field.name: model[field.name] for field in fields(Architecture) if field.name in model}
    return StoredRun(
        architecture=_described(Architecture, described, "config.model", workdir),
        preprocessing=_described(Preprocessing, preparation, "config.data", workdir),
        class_names=tuple(stored["class_names"]),
        seeds=tuple(config.get("seeds", ())),
        keeps_average=bool(config.get("ema_decay", 0.99)),
        compute_dtype=config.get("compute_dtype", "auto"),
        convolution=model.get("convolution", "auto"),
    )


def _described(kind: type, values: Mapping[str, Any], prefix: str, workdir: Path) -> Any:
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return kind(**tuples)
    except UserError as error:
        raise UserError(f"{workdir / CONFIG_FILE}: {prefix}.{error}") from None


def seed_workdir(workdir: Path, seed: int) -> Path:
    """Returns the folder of `seed` in the workdir of a run of several seeds. It is a run of its own."""
    return workdir / f"seed_{seed}"


def trained_folders(workdir: Path, seeds: Iterable[int]) -> list[Path]:
    """Returns the folders of what is trained in `workdir`: one for each of `seeds`, or itself without any."""
    return [seed_workdir(workdir, seed) for seed in seeds] or [workdir]
