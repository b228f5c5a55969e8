"""The settings of a run: its `config.json`, and what may differ when the run is resumed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import default, rules
from resnet.errors import UserError
from resnet.fields import shown
from resnet.files import cannot_write, write_whole
from resnet.preprocessing import PREPARATION
from resnet.run import CONFIG_FILE, read_config_file, trained_folders
from workdir.images_file import IMAGES_FILE, describe_changes, read_images_file, table_digest

# Fields that may change when a run is resumed: the model does not depend on them, nor what it has learned.
# What depends on the share of the training that is done goes by the new `num_epochs`.
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
    "data.placement",
    "data.loader_processes",
    "checkpoint",
    "gpu",
    "hosts",
)


class Sources(NamedTuple):
    """What identifies what a run learns from.

    `images` is a checksum of the pixels and labels of its training images. `table` lists the files of a
    folder, as `datasets.contents.image_table` writes them, and is "" for images that have none. `weights` is
    a checksum of the weights in `config.init_from`, "" without any.
    """

    images: str = ""
    table: str = ""
    weights: str = ""


NO_SOURCES = Sources()


def save(
    config: ConfigDict,
    class_names: tuple[str, ...],
    workdir: Path,
    sources: Sources = NO_SOURCES,
) -> None:
    """Makes `workdir` and writes every field and the names of the classes to its `config.json`, atomically.

    The fields of the hosts are left out: the next start may have others. The file also holds the checksums of
    the `sources`, see `stored_sources`. Their table is in `images.tsv`, which is removed if they have none.

    Raises:
        UserError: `workdir` cannot be made or written.
    """
    fields = {name: value for name, value in config.to_dict().items() if name != "hosts"}
    stored = {"config": fields, "class_names": class_names, "data_digest": sources.images}
    if sources.weights:
        stored["init_digest"] = sources.weights
    if sources.table:
        stored["table_digest"] = table_digest(sources.table)
    text = json.dumps(stored, indent=2)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if sources.table:
            write_whole(workdir / IMAGES_FILE, sources.table)
        elif os.path.lexists(workdir / CONFIG_FILE):  # A training that saved nothing has left it.
            (workdir / IMAGES_FILE).unlink(missing_ok=True)
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
    config = default.get_config()
    try:
        _fill(config, stored["config"])
        rules.check(config)
    except UserError as error:
        raise UserError(f"{workdir / CONFIG_FILE}: {error}") from None
    return config, tuple(stored["class_names"])


def _fill(config: ConfigDict, values: Mapping[str, Any], prefix: str = "") -> None:
    """Puts `values` in place of fields of `config`, whatever their types."""
    with config.ignore_type():
        for name, value in values.items():
            if name not in config:
                rules.check_is_field(f"{prefix}{name}")
                raise UserError(f"config.{prefix}{name!r}: no such field; expected no dots in names")
            if not isinstance(config[name], ConfigDict):
                try:
                    config[name] = tuple(value) if isinstance(value, list) else value
                except OverflowError:
                    raise UserError(
                        f"config.{prefix}{name}: too large a number, expected one that is finite"
                    ) from None
            elif isinstance(value, dict):
                _fill(config[name], value, f"{prefix}{name}.")
            else:
                raise UserError(f"config.{prefix}{name}={value!r}: expected fields by their names")


def seed_workdirs(config: ConfigDict, workdir: Path) -> list[Path]:
    """Returns the folders of what `config` trains in `workdir`: one per seed, or `workdir` itself."""
    return trained_folders(workdir, config.seeds)


def without_hosts(config: ConfigDict) -> ConfigDict:
    """Returns the settings of a run, which are the same on whichever hosts it is trained."""
    same = config.copy_and_resolve_references()
    same.hosts = default.get_config().hosts
    return same


def for_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """Returns the settings of a run of `seed` alone."""
    alone = config.copy_and_resolve_references()
    alone.seed, alone.seeds = seed, ()
    return alone


def stored_sources(workdir: Path) -> Sources:
    """Returns what identifies what the run in `workdir` learns from, "" where it has none.

    A table of images that is damaged is told on stderr and left out.

    Raises:
        UserError: there is no run in `workdir`, or its `config.json` is damaged.
    """
    stored = read_config_file(workdir)
    table = read_images_file(workdir, stored.get("table_digest", ""))
    return Sources(stored.get("data_digest", ""), table, stored.get("init_digest", ""))


def preparation(data: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.data` that belong to the network rather than to the data set."""
    return {name: data[name] for name in PREPARATION}


def prediction(config: ConfigDict) -> str:
    """Describes how logits become predictions, which may change after the last step."""
    return f"test_time_flip={config.test_time_flip} temperature={config.temperature:g}"


def check_same_run(
    config: ConfigDict,
    workdir: Path,
    sources: Sources = NO_SOURCES,
    finished: bool = False,
) -> None:
    """Checks that a run of `config` that learns from `sources` may go on from the run in `workdir`.

    Anything may start where there is no run yet. The learning rate of a `finished` run may not change.

    Raises:
        UserError: settings, training images or initial weights differ that must not, `num_epochs` shrank,
            or seeds are left out.
    """
    if not os.path.lexists(workdir / CONFIG_FILE):
        return
    old, _ = load(workdir)
    stored = stored_sources(workdir)
    old_fields, new_fields = dict(rules.flatten(old)), dict(rules.flatten(config))
    may_change = [name for name in MAY_CHANGE if not (finished and name == "optimizer.learning_rate")]
    if stored.weights and stored.weights == sources.weights:
        may_change.append("init_from")  # The weights are the same, wherever they lie.
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
    if stored.weights and stored.weights != sources.weights:
        raise UserError(
            f"{workdir}: holds a run that started from other weights than those in {config.init_from} now;"
            " use another --workdir, or the same weights"
        )
    changes = describe_changes(stored.table, sources.table) if stored.table and sources.table else ""
    if changes or stored.images != sources.images:
        raise UserError(
            f"{workdir}: holds a run on other images than those of {config.data.dir or config.data.name} now"
            f"{f': {changes}' if changes else ''}; use another --workdir, or the same images"
        )
    if not set(old.seeds) <= set(config.seeds):
        raise UserError(
            f"config.seeds={shown(config.seeds)}: the run in {workdir} has the seeds {shown(old.seeds)};"
            " others may join them, and none may be left out"
        )
    if config.num_epochs < old.num_epochs:
        raise UserError(
            f"config.num_epochs={config.num_epochs}: the run in {workdir} was set to"
            f" {old.num_epochs}; it may grow, not shrink"
        )
