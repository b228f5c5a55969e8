"""A trained run on disk: what the library reads of its `config.json`, and the folders of its seeds."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.preprocessing import PREDICTION, Preprocessing

if TYPE_CHECKING:  # They import JAX, which must not start before the command line has read its settings.
    from resnet.network import ComputeDtype
    from resnet.ops.convolution import Lowering

CONFIG_FILE = "config.json"


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


def read_config_file(workdir: Path) -> Any:
    """Returns the content of the `config.json` in `workdir`, whatever JSON it is.

    Raises:
        UserError: there is no run in `workdir`, or the file cannot be read as JSON.
    """
    try:
        return json.loads((workdir / CONFIG_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{workdir}: no trained run here ({CONFIG_FILE} is missing);"
            f" train one with: python main.py --config=configs/signs.py --workdir={workdir}"
        ) from None
    except (OSError, ValueError) as error:
        raise damaged_config_file(workdir, error) from None


def damaged_config_file(workdir: Path, error: Exception) -> UserError:
    """Returns the error of a `config.json` that does not hold what a run writes."""
    return UserError(
        f"{workdir / CONFIG_FILE}: damaged ({type(error).__name__}: {error}); expected what a run wrote there"
    )


def read_run(workdir: Path) -> StoredRun:
    """Reads the description of the run in `workdir`. Fields that are missing have their defaults.

    Raises:
        UserError: there is no run in `workdir`, or its `config.json` is damaged.
    """
    stored = read_config_file(workdir)
    try:
        config = stored["config"]
        model, data = dict(config["model"]), config["data"]
        names = {field.name for field in fields(Preprocessing)}
        taken = {name: data[name] for name in names & data.keys()}
        taken |= {name: config[name] for name in PREDICTION if name in config}
        lowering = model.pop("convolution", "auto")
        model.pop("stochastic_depth", None)  # It is for training alone.
        return StoredRun(
            architecture=_described(Architecture, model, "config.model", workdir),
            preprocessing=_described(Preprocessing, taken, "config.data", workdir),
            class_names=tuple(map(str, stored["class_names"])),
            seeds=tuple(config.get("seeds", ())),
            keeps_average=bool(config.get("ema_decay", 0.99)),
            compute_dtype=config.get("compute_dtype", "auto"),
            convolution=lowering,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged_config_file(workdir, error) from None


def _described(kind: type, values: Mapping[str, Any], prefix: str, workdir: Path) -> Any:
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return kind(**tuples)
    except UserError as error:
        raise UserError(f"{workdir / CONFIG_FILE}: {prefix}.{error}") from None


def seed_workdir(workdir: Path, seed: int) -> Path:
    """Returns the folder of `seed` in the workdir of a run of several seeds. It is a run of its own."""
    return workdir / f"seed_{seed}"
