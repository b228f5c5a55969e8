"""Small runs: configs that compile and train in seconds, and what a run leaves in its workdir."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import default
from resnet.checkpoint import Checkpoints
from resnet.network import Weights
from training.network import make_network
from workdir import settings

DIGITS = tuple("012345")  # the classes of SIGNS and of rendered hands
# XLA's own convolution compiles in a fraction of the time.
SMALL = {"model.depth": 18, "model.width": 4, "model.convolution": "lax", "checkpoint.share": 0.0}
# Resampling takes long to compile.
NO_RESAMPLING = {"augment.rotation": 0.0, "augment.scale": 0.0, "augment.translation": 0.0}


def small_config(**fields: object) -> ConfigDict:
    """Returns the default config with a small network, and with `fields` by their dotted names."""
    config = default.get_config()
    config.update_from_flattened_dict(SMALL | fields)
    return config


def config_with(**fields: object) -> ConfigDict:
    """Returns the default config with `fields` set, whatever their types; `__` stands for a dot."""
    config = default.get_config()
    for name, value in fields.items():
        *parents, last = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        if last in node:
            del node[last]  # or the value would be converted to the default's type, where it can be
        node[last] = value
    return config


def seeds_config(data_dir: Path, **fields: object) -> ConfigDict:
    """Returns the config of a short training on SIGNS in `data_dir`, for one seed or several."""
    short = {
        "num_epochs": 2,
        "batch_size": 16,
        "steps_per_call": 2,
        "model.depth": 16,
        "checkpoint.every_epochs": 1.0,
        "data.val_fraction": 0.2,
        "data.dir": str(data_dir),
        "augment.early_size": 32,
        "augment.early_share": 0.5,
    }
    return small_config(**short | NO_RESAMPLING | fields)


# All that is on by default, and the geometry that a recipe may add.
AUGMENTATIONS = ("flip", "rotation", "scale", "translation", "perspective", "appearance")


def without_augmentation(config: ConfigDict) -> ConfigDict:
    """Switches off all augmentation of `config` and returns it."""
    config.augment.update(dict.fromkeys(AUGMENTATIONS, 0.0))
    return config


def save_untrained_run(
    workdir: Path, config: ConfigDict, class_names: tuple[str, ...], weights: Weights | None = None
) -> Path:
    """Writes a run with a checkpoint of step 0 and returns its workdir.

    The weights are `weights`, or else those that the seed of `config` draws. The run keeps no moving average.
    """
    config.ema_decay = 0.0
    weights = weights or make_network(config, len(class_names)).init(config.seed)
    settings.save(config, class_names, workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, weights._asdict(), {}, None)
    return workdir


def last_weights(workdir: Path, *, ema: bool = False) -> tuple[Weights, int]:
    """Returns the weights of the last checkpoint, raw or averaged, and its step."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_weights("last", ema)


def weights_of(workdir: Path) -> list[np.ndarray]:
    """Returns all arrays of the last checkpoint: the raw weights, and their moving average."""
    return jax.tree.leaves([last_weights(workdir, ema=ema)[0] for ema in (False, True)])


def assert_same_bits(a: Path, b: Path) -> None:
    """Asserts that two runs end at the same step with the same weights, to the bit."""
    assert last_weights(a)[1] == last_weights(b)[1]
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a: Path, b: Path) -> None:
    """Asserts that two runs end at the same step with the same weights, within rounding."""
    assert last_weights(a)[1] == last_weights(b)[1]
    one, other = (np.concatenate([np.ravel(x) for x in weights_of(workdir)]) for workdir in (a, b))
    # Adam divides by the root of tiny second moments: rounding grows, but stays far below one update.
    assert np.abs(one - other).max() < 1e-3
    assert np.linalg.norm(one - other) < 1e-3 * np.linalg.norm(one)


def metrics_of(workdir: Path, split: str) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` that are about `split`."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def summary_of(workdir: Path) -> dict[str, Any]:
    """Returns the content of `summary.json`."""
    return json.loads((workdir / "summary.json").read_text())


def saved_steps(workdir: Path) -> set[int]:
    """Returns the steps of the checkpoints."""
    return {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}


def modification_times(folder: Path) -> dict[Path, int]:
    """Returns the modification time of every file below `folder`, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def names_of_changed_files(before: dict[Path, int], after: dict[Path, int]) -> set[str]:
    """Returns the names of the files that differ between two `modification_times`."""
    return {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def change_config_file(workdir: Path, **sections: dict[str, Any]) -> None:
    """Changes fields in the `config.json` of a run: `data={"name": ...}` changes `config.data`."""
    stored = json.loads((workdir / "config.json").read_text())
    for section, fields in sections.items():
        stored["config"][section] |= fields
    (workdir / "config.json").write_text(json.dumps(stored))
