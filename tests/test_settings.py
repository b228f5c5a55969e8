"""What `settings` refuses and with which line; a run's own `config.json`, written, read and compared."""

import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import settings
from configs import default
from errors import UserError

ROOT = Path(__file__).parent.parent
CLASSES = ("0", "1", "zwei")


def config_with(**fields: object) -> ConfigDict:
    """The default config with dotted fields set, spelt with `__` for the dot, whatever their type."""
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


def refusal(config: ConfigDict) -> str:
    with pytest.raises(UserError) as caught:
        settings.check(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Checking


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py")))
def test_configs_of_the_project_pass(name: str) -> None:
    settings.check(importlib.import_module(f"configs.{name}").get_config())


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"bach_size": 8}, "config.bach_size: no such field; did you mean config.batch_size?"),
        ({"model__detph": 8}, "config.model.detph: no such field; did you mean config.model.depth?"),
        ({"batch_size": 8.0}, "config.batch_size=8.0: expected a whole number"),
        ({"batch_size": "8"}, "config.batch_size='8': expected a whole number"),
        ({"batch_size": True}, "config.batch_size=True: expected a whole number"),
        ({"optimizer__learning_rate": "1e-3"}, "config.optimizer.learning_rate='1e-3': expected a number"),
        ({"optimizer__learning_rate": True}, "config.optimizer.learning_rate=True: expected a number"),
        ({"ema_decay": None}, "config.ema_decay=None: expected a number"),
        ({"model__residual": 1}, "config.model.residual=1: expected true or false"),
        ({"data__dir": 3}, "config.data.dir=3: expected text"),
        ({"data__mean": 0.5}, "config.data.mean=0.5: expected a tuple"),
        ({"batch_size": 0}, "config.batch_size=0: out of range, expected at least 1"),
        ({"num_epochs": -1}, "config.num_epochs=-1: out of range, expected at least 1"),
        ({"seed": 2**32}, f"config.seed={2**32}: out of range, expected 0 to {2**32 - 1}"),
        ({"augment__flip": 1.5}, "config.augment.flip=1.5: out of range, expected 0 to 1"),
        ({"label_smoothing": 1.0}, "config.label_smoothing=1.0: out of range, expected 0 to 0.999"),
        ({"ema_decay": float("nan")}, "config.ema_decay=nan: expected a finite number"),
        ({"data__val_fraction": float("nan")}, "config.data.val_fraction=nan: expected a finite number"),
        ({"optimizer__epsilon": float("inf")}, "config.optimizer.epsilon=inf: expected a finite number"),
        ({"model__variant": "v3"}, "config.model.variant='v3': expected one of v1, v1.5, v2"),
        ({"optimizer__name": "lion"}, "config.optimizer.name='lion': expected one of sgd, adam, adamw"),
        ({"data__mean": (0.5, 1)}, "config.data.mean=(0.5, 1): expected 3 numbers, such as (0.5, 0.5, 0.5)"),
        ({"data__std": ("1",) * 3},
         "config.data.std=('1', '1', '1'): expected 3 numbers, such as (0.25, 0.25, 0.25)"),
        ({"data__std": (1.0, 0.0, 1.0)}, "config.data.std=(1.0, 0.0, 1.0): expected numbers above 0"),
        ({"data__mean": (0.5, float("nan"), 0.5)},
         "config.data.mean=(0.5, nan, 0.5): expected 3 numbers, such as (0.5, 0.5, 0.5)"),
        ({"data__name": "rendered", "data__rendered_size": 9},
         "config.data.rendered_size=9: adds rendered hands to photographs, but data.name is rendered already;"
         " expected 0, and their number in data.train_size"),
        ({"data__rendered_size": 9},
         "config.data.rendered_size=9: none of them would be trained on, as data.rendered_share is 0, and"
         " data.rendered_share_at_start is 0 or has no augment.ramp to last for; expected a share of each"
         " batch"),
        ({"data__rendered_size": 9, "data__rendered_share_at_start": 0.5},
         "config.data.rendered_size=9: none of them would be trained on, as data.rendered_share is 0, and"
         " data.rendered_share_at_start is 0 or has no augment.ramp to last for; expected a share of each"
         " batch"),
        ({"gpu__visible_devices": "gpu0"}, "config.gpu.visible_devices=gpu0: expected indices such as 0,1"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, object], line: str) -> None:
    assert refusal(config_with(**fields)) == line


def test_a_missing_field_is_refused() -> None:
    config = default.get_config()
    del config.optimizer.momentum
    assert refusal(config).startswith("config.optimizer.momentum: missing;")


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer__learning_rate": 1},  # a whole number where a number is expected
        {"label_smoothing": 0.999, "augment__flip": 1.0, "augment__rotation": 180.0},
        {"gpu__visible_devices": "0, 1"},
        {"data__mean": (0, 0, 0)},
    ],
)
def test_what_passes(fields: dict[str, object]) -> None:
    settings.check(config_with(**fields))


def test_every_choice_and_bound_is_of_a_field_whose_default_meets_it() -> None:
    fields = dict(settings.flatten(default.get_config()))
    assert settings.CHOICES.keys() | settings.BOUNDS.keys() <= fields.keys()
    for name, (low, high) in settings.BOUNDS.items():
        for bound in (low, high):
            if bound is not None:
                settings.check(config_with(**{name.replace(".", "__"): type(fields[name])(bound)}))


# config.json


def test_saving_and_loading_gives_the_same_fields(tmp_path: Path) -> None:
    config = config_with(
        seed=7, data__mean=(0.1, 0.2, 0.3), data__dir="a folder/ä", model__residual=False, optimizer__b1=0
    )
    workdir = tmp_path / "new" / "run"
    settings.save(config, CLASSES, workdir)
    loaded, class_names = settings.load(workdir)
    assert class_names == CLASSES
    old, new = dict(settings.flatten(config)), dict(settings.flatten(loaded))
    assert new == old
    assert isinstance(new["data.mean"], tuple)
    assert {path.name for path in workdir.iterdir()} == {"config.json"}


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--workdir=.*file/run: cannot be written \(.*\); name a folder"):
        settings.save(default.get_config(), CLASSES, tmp_path / "file" / "run")


def test_loading_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained run here \(config\.json is missing\); train one with: "):
        settings.load(tmp_path)


def stored_text(**changes: object) -> str:
    tree = {"config": default.get_config().to_dict(), "class_names": CLASSES}
    tree["config"]["model"].update(changes)
    return json.dumps(tree)


@pytest.mark.parametrize(
    "text",
    [
        "",
        stored_text()[:200],
        "[]",
        "null",
        "{}",
        '{"config": 3, "class_names": []}',
        json.dumps({"config": {}, "class_names": None}),
        json.dumps({"config": {"nothing": {"x": 1}}, "class_names": []}),
        json.dumps({"config": {"seed": {"x": 1}}, "class_names": []}),
        stored_text(depth="deep"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        settings.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: damaged (")
    assert str(caught.value).endswith("; expected what a run wrote there")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"config\.json: damaged \(UnicodeDecodeError"):
        settings.load(tmp_path)


def test_fields_that_are_unknown_or_out_of_range_are_refused_on_loading(tmp_path: Path) -> None:
    for changes, line in [
        ({"detph": 50}, "config.model.detph: no such field; did you mean config.model.depth?"),
        ({"depth": 51}, "config.model.depth=51: expected one of 16, 18, 20, 28,"),
    ]:
        (tmp_path / "config.json").write_text(stored_text(**changes))
        with pytest.raises(UserError) as caught:
            settings.load(tmp_path)
        assert line in str(caught.value)


# Resuming


def test_any_config_may_start_a_run(tmp_path: Path) -> None:
    settings.check_same_run(default.get_config(), tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_epochs": 41},
        {"gpu__memory_fraction": 0.5, "gpu__deterministic": True},
        {"checkpoint__every_epochs": 1.0, "checkpoint__keep": 9},
        {"optimizer__learning_rate": 1e-4},
        {"data__dir": "elsewhere", "steps_per_call": 1, "compilation_cache": False},
    ],
)
def test_what_may_change_when_a_run_is_resumed(tmp_path: Path, fields: dict[str, object]) -> None:
    settings.save(default.get_config(), CLASSES, tmp_path)
    settings.check_same_run(config_with(**fields), tmp_path)


def test_differing_fields_are_listed_with_both_values(tmp_path: Path) -> None:
    settings.save(default.get_config(), CLASSES, tmp_path)
    with pytest.raises(UserError) as caught:
        settings.check_same_run(
            config_with(batch_size=64, model__variant="v1", data__std=(1.0, 1.0, 1.0), num_epochs=80),
            tmp_path,
        )
    message = str(caught.value)
    for part in (
        "batch_size (there 32, here 64)",
        "model.variant (there 'v1.5', here 'v1')",
        "data.std (there (0.25, 0.25, 0.25), here (1.0, 1.0, 1.0))",
    ):
        assert part in message
    assert "num_epochs" not in message


@pytest.mark.parametrize("name", sorted(dict(settings.flatten(default.get_config()))))
def test_every_other_field_must_stay(tmp_path: Path, name: str) -> None:
    free = ("seeds_together", "num_epochs", "steps_per_call", "test_time_flip", "temperature",
            "optimizer.learning_rate", "compilation_cache", "data.dir", "checkpoint.", "gpu.")  # fmt: skip
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.001, str: lambda v: v + "x",
             tuple: lambda v: (*v[:2], 0.9)}  # fmt: skip
    config = default.get_config()
    settings.save(config, CLASSES, tmp_path)
    value = dict(settings.flatten(config))[name]
    changed = config_with(**{name.replace(".", "__"): other[type(value)](value)})
    if name.startswith(free):
        settings.check_same_run(changed, tmp_path)
    else:
        with pytest.raises(UserError, match=rf"other settings: {name} \(there "):
            settings.check_same_run(changed, tmp_path)


def test_num_epochs_may_not_shrink(tmp_path: Path) -> None:
    settings.save(default.get_config(), CLASSES, tmp_path)
    with pytest.raises(
        UserError, match=r"^config\.num_epochs=39: the run in .* was set to 40; it may grow, not"
    ):
        settings.check_same_run(config_with(num_epochs=39), tmp_path)
