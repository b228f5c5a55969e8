"""The settings of a run: its `config.json`, and what may differ when the run is resumed."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import default, rules
from resnet.errors import UserError
from resnet.files import cannot_write, write_whole
from resnet.preprocessing import NORMALIZATION
from resnet.run import CONFIG_FILE, damaged_config_file, read_config_file, seed_workdir
from workdir.images_file import IMAGES_FILE, describe_changes, read_images_file

# Fields that may change when a run is resumed: neither the model nor the steps so far depend on them.
MAY_CHANGE = (
    "seeds",
    "seeds_together",
    "num_epochs",
    "steps_per_call",
    "test_time_flip",
    "temperature",
    "optimizer.learning_rate",
    "compilation_cache",
    "data.dir",
    "checkpoint",
    "gpu",
)
# Fields of `config.data` that belong to a network: how it takes its images.
PREPARATION = (*NORMALIZATION, "image_size", "fit", "crop")


class TrainingImages(NamedTuple):
    """What identifies the training images of a run.

    `digest` is a checksum of their pixels and labels. `table` lists the files of a folder, as
    `datasets.contents.image_table` writes them, and is "" for images that have none.
    """

    digest: str = ""
    table: str = ""


NO_IMAGES = TrainingImages()


def save(
    config: ConfigDict,
    class_names: tuple[str, ...],
    workdir: Path,
    images: TrainingImages = NO_IMAGES,
) -> None:
    """Makes `workdir` and writes every field and the names of the classes to its `config.json`, atomically.

    It also holds the digest of the training `images`, see `trained_on`. Their table is in `images.tsv`.

    Raises:
        UserError: `workdir` cannot be made or written.
    """
    stored = {"config": config.to_dict(), "class_names": class_names, "data_digest": images.digest}
    text = json.dumps(stored, indent=2)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if images.table:
            write_whole(workdir / IMAGES_FILE, images.table)
        write_whole(workdir / CONFIG_FILE, text + "\n")
    except OSError as error:
        raise cannot_write(f"--workdir={workdir}", error) from None


def load(workdir: Path) -> tuple[ConfigDict, tuple[str, ...]]:
    """Reads what `save` wrote: the config and the names of the classes.

    Fields that an older run did not have yet get their defaults.

    Raises:
        UserError: there is no run in `workdir`, or its `config.json` is damaged.
    """
    stored = read_config_file(workdir)
    try:
        config = default.get_config()
        for name, value in _flatten_dict(stored["config"]):
            *parents, last = name.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = tuple(value) if isinstance(value, list) else value
        class_names = tuple(map(str, stored["class_names"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_config_file(workdir, error) from None
    rules.check(config)
    return config, class_names


def _flatten_dict(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten_dict(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def seed_workdirs(config: ConfigDict, workdir: Path) -> list[Path]:
    """Returns the folders of what `config` trains in `workdir`: one per seed, or `workdir` itself."""
    return [seed_workdir(workdir, seed) for seed in config.seeds] or [workdir]


def for_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """Returns the settings of a run of `seed` alone."""
    alone = config.copy_and_resolve_references()
    alone.seed, alone.seeds = seed, ()
    return alone


def trained_on(workdir: Path) -> str:
    """Returns the digest of the training images of the run in `workdir`, "" for a run that has none."""
    return json.loads((workdir / CONFIG_FILE).read_text()).get("data_digest", "")


def preparation(data: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.data` that belong to the network rather than to the data set."""
    return {name: data[name] for name in PREPARATION}


def prediction(config: ConfigDict) -> str:
    """Describes how logits become predictions, which may change after the last step."""
    return f"test_time_flip={config.test_time_flip} temperature={config.temperature:g}"


def check_same_run(
    config: ConfigDict,
    workdir: Path,
    images: TrainingImages = NO_IMAGES,
    finished: bool = False,
) -> None:
    """Checks that a run of `config` on `images` may go on from the run in `workdir`.

    Anything may start where there is no run yet. The learning rate of a `finished` run may not change.

    Raises:
        UserError: settings or training images differ that must not, or `num_epochs` shrank.
    """
    if not os.path.exists(workdir / CONFIG_FILE):
        return
    old, _ = load(workdir)
    old_fields, new_fields = dict(rules.flatten(old)), dict(rules.flatten(config))
    may_change = [name for name in MAY_CHANGE if not (finished and name == "optimizer.learning_rate")]
    differing = [
        f"{name} (there {old_fields[name]!r}, here {value!r})"
        for name, value in new_fields.items()
        if value != old_fields[name] and not name.startswith(tuple(may_change))
    ]
    if bool(old.seeds) != bool(config.seeds):  # They leave different files behind.
        differing.append(f"seeds (there {old.seeds!r}, here {config.seeds!r})")
    if differing:
        raise UserError(
            f"{workdir}: holds a run with other settings: {'; '.join(differing)};"
            " use another --workdir, or the same settings"
        )
    changes = describe_changes(read_images_file(workdir), images.table) if images.table else ""
    if changes or trained_on(workdir) != images.digest:
        raise UserError(
            f"{workdir}: holds a run on other images than those of {config.data.dir or config.data.name} now"
            f"{f': {changes}' if changes else ''}; use another --workdir, or the same images"
        )
    if config.num_epochs < old.num_epochs:
        raise UserError(
            f"config.num_epochs={config.num_epochs}: the run in {workdir} was set to"
            f" {old.num_epochs}; it may grow, not shrink"
        )
