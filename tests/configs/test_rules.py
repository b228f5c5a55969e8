"""Which configs are refused and with which line, and which field a wrong name suggests."""

import dataclasses
import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import default, rules
from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.formats.export import INITIAL_ONLY
from resnet.preprocessing import Preprocessing
from tests.runs import config_with, small_config

ROOT = Path(__file__).parent.parent.parent
HOSTS = {"hosts.coordinator": "node1:8476", "hosts.number": 2, "hosts.index": 1}


def refusal(config: ConfigDict) -> str:
    with pytest.raises(UserError) as caught:
        rules.check(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


CONFIG_NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py") if path.stem != "rules")


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_configs_of_the_project_pass(name: str) -> None:
    rules.check(importlib.import_module(f"configs.{name}").get_config())


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
        ({"batch_size": 0}, "config.batch_size=0: out of range, expected 1 to 1048576"),
        ({"num_epochs": -1}, "config.num_epochs=-1: out of range, expected 1 to 1000000"),
        ({"seed": 2**32}, f"config.seed={2**32}: out of range, expected 0 to {2**32 - 1}"),
        ({"augment__flip": 1.5}, "config.augment.flip=1.5: out of range, expected 0 to 1"),
        ({"label_smoothing": 1.0}, "config.label_smoothing=1.0: out of range, expected 0 to 0.999"),
        ({"ema_decay": float("nan")}, "config.ema_decay=nan: expected a finite number"),
        ({"data__val_fraction": float("nan")}, "config.data.val_fraction=nan: expected a finite number"),
        ({"optimizer__epsilon": float("inf")}, "config.optimizer.epsilon=inf: expected a finite number"),
        ({"model__variant": "v3"}, "config.model.variant='v3': expected one of v1, v1.5, v2"),
        ({"optimizer__name": "rmsprop"},
         "config.optimizer.name='rmsprop': expected one of sgd, adam, adamw, lamb, lion, muon"),
        ({"data__mean": (0.5, 1)}, "config.data.mean=(0.5, 1): expected 3 numbers, such as (0.5, 0.5, 0.5)"),
        ({"data__std": ("1",) * 3},
         "config.data.std=('1', '1', '1'): expected 3 numbers, such as (0.25, 0.25, 0.25)"),
        ({"data__std": (1.0, 0.0, 1.0)},
         "config.data.std=(1.0, 0.0, 1.0): out of range, expected 3 numbers of 1e-06 to 1e+06"),
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
        ({"data__val_fraction": 0.2, "data__folds": 5},
         "config.data.val_fraction=0.2: cannot be combined with config.data.folds=5; set one of them to 0"),
        ({"data__name": "folder", "data__fold": 2},
         "config.data.fold=2: expected 0, as config.data.folds=0 makes no folds; set config.data.folds to"
         " their number, or config.data.fold to 0"),
        ({"data__folds_of": "all"},
         "config.data.folds_of='all': is for folds of SIGNS, but data.name=signs and data.folds=0; expected"
         " 'train', or data.name=signs and a number of folds"),
        ({"data__name": "rendered", "data__folds_of": "all", "data__folds": 5},
         "config.data.folds_of='all': is for folds of SIGNS, but data.name=rendered and data.folds=5;"
         " expected 'train', or data.name=signs and a number of folds"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, object], line: str) -> None:
    assert refusal(config_with(**fields)) == line


def test_every_number_has_bounds_that_a_float32_or_an_int64_holds() -> None:
    for name, value in DEFAULTS.items():
        if type(value) is float:
            for number in (1e39, -1e39, float("nan"), float("inf"), 10**400):
                assert refusal(config_with(**{name.replace(".", "__"): number})).startswith(f"config.{name}=")
        elif type(value) is int:
            for number in (2**63, -(2**63) - 1, 10**5000):
                assert refusal(config_with(**{name.replace(".", "__"): number})).startswith(f"config.{name}=")


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"num_epochs": 2**31}, "expected 1 to 1000000"),
        ({"model__width": 10**8}, "config.model.width=100000000: out of range, expected 1 to 65536"),
        ({"model__stem_width": 10**8}, "expected 0 to 65536"),
        ({"data__train_size": 10**15}, "expected 1 to 10000000"),
        ({"batch_size": 10**12}, "expected 1 to 1048576"),
        ({"data__image_size": 4096}, "expected 1 to 2048"),
        ({"seeds": tuple(range(10**6))}, "are 1,000,000, expected at most 1,000"),
        ({"seeds": (10**5000,)}, "a number of thousands of digits"),
        ({"optimizer__milestones": tuple(i / 10**4 for i in range(1, 10**4))}, "are 9,999, expected at most"),
        ({"data__mean": (0.5, 10**400, 0.5)}, "expected 3 numbers"),
        ({"data__std": (1e39, 1.0, 1.0)}, "expected 3 numbers"),
        ({"data__std": (1e-300, 1.0, 1.0)}, "out of range, expected 3 numbers of 1e-06 to 1e+06"),
        ({"data__dir": "a\0b"}, "holds the control character '\\x00'"),
        ({"init_from": "a\nb"}, "holds the control character '\\n'"),
    ],
)
def test_numbers_and_texts_beyond_reason_are_refused_in_a_short_line(
    fields: dict[str, object], part: str
) -> None:
    line = refusal(config_with(**fields))
    assert part in line
    assert len(line) < 400


# What a config asks of the machine


def test_what_the_machine_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "machine_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(rules, "has_accelerator", lambda: False)
    rules.check_training_memory(default.get_config())
    for fields, line in (
        (
            {"model__width": 2048},
            "config.model.width=2048: the weights and the state of the optimizer take at",
        ),
        (
            {"batch_size": 100_000},
            "config.batch_size=100000: with images of 64 pixels a side a step takes at",
        ),
        ({"data__image_size": 2048, "batch_size": 64}, "config.batch_size=64: with images of 2048 pixels"),
    ):
        with pytest.raises(UserError) as caught:
            rules.check_training_memory(config_with(**fields))
        assert str(caught.value).startswith(line)
        assert "expected at most the 8.0 GB of memory here" in str(caught.value)
    monkeypatch.setattr(rules, "has_accelerator", lambda: True)
    rules.check_training_memory(config_with(batch_size=100_000))  # It has memory of its own.


def test_rendered_images_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "machine_memory", lambda: 8 * 10**9)
    rules.check_data_memory(config_with(data__train_size=10**6))  # SIGNS has its own number of images.
    for name in ("data__train_size", "data__rendered_size"):
        with pytest.raises(UserError, match=r"take 16\.4 GB, expected at most the 8\.0 GB of memory here"):
            rules.check_data_memory(config_with(data__name="rendered", **{name: 10**6}))


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_configs_of_the_project_set_nothing_in_vain(name: str) -> None:
    assert rules.fields_without_effect(importlib.import_module(f"configs.{name}").get_config()) == {}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("data.rendered_share", 0.5, "data.rendered_size is 0"),
        ("data.train_size", 50, "data.name is not rendered"),
        ("data.variety", 0.5, "no images are rendered"),
        ("augment.policy_magnitude", 5.0, "augment.policy is not rand"),
        ("optimizer.momentum", 0.8, "optimizer.name is adamw"),
        ("optimizer.decay_factor", 0.5, "optimizer.schedule is not multistep"),
        ("seeds_together", "yes", "config.seeds is empty"),
        ("init_head", "keep", "config.init_from is empty"),
    ],
)
def test_fields_without_effect_are_told(field: str, value: object, reason: str) -> None:
    config = config_with(**{field.replace(".", "__"): value})
    assert rules.fields_without_effect(config) == {field: reason}


def test_what_appearance_would_change_is_told_without_it() -> None:
    # Every field is named, except one that is 0 and so off anyway.
    fields = dict.fromkeys(("background", "veil", "saturation", "levels", "noise", "cutout"), 0.25)
    fields |= {"brightness": 0.25, "contrast": 0.0, "channel_gain": 0.25}
    config = default.get_config()
    config.augment.update(fields, appearance=0.0)
    told = {f"augment.{name}": "augment.appearance is 0" for name, value in fields.items() if value}
    assert rules.fields_without_effect(config) == told
    config.augment.appearance = 0.5
    assert rules.fields_without_effect(config) == {}


def test_initial_weights_bring_all_of_the_network_but_how_fresh_ones_are_drawn() -> None:
    of_the_network = {field.name for field in dataclasses.fields(Architecture)}
    assert {*rules.ADOPTED["model"]} == of_the_network - {*INITIAL_ONLY}


def test_what_muon_leaves_to_adam_has_an_effect() -> None:
    config = config_with(optimizer__name="muon", optimizer__b2=0.95, optimizer__epsilon=1e-6)
    assert rules.fields_without_effect(config) == {}


def test_every_field_that_may_have_no_effect_is_a_field() -> None:
    for _, names in rules._useless_fields(default.get_config()).values():
        assert set(names.split()) <= DEFAULTS.keys()


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
    rules.check(config_with(**fields))


def test_every_choice_and_bound_is_of_a_field_whose_default_meets_it() -> None:
    fields = dict(rules.flatten(default.get_config()))
    assert rules.CHOICES.keys() | rules.BOUNDS.keys() <= fields.keys()
    of_folders = {"data__name": "folder", "augment__resized_crop": 0.5}
    needs = {
        "data.store_size": of_folders,
        "data.test_fraction": of_folders,
        "data.fold": {"data__folds": 1000},
        "data.rendered_size": {"data__rendered_share": 0.5},
        "augment.early_size": {"augment__early_share": 0.5, "data__image_size": 2048},
        "augment.early_share": {"augment__early_size": 32},
        "model.groups": {"model__width": 2**16},
        "hosts.number": {"hosts__coordinator": "node1:8476", "hosts__index": 0},
        "hosts.index": {"hosts__coordinator": "node1:8476", "hosts__number": rules.MAX_HOSTS},
    }
    for name, (low, high) in rules.BOUNDS.items():
        for bound in (low, high):
            if bound is not None:
                others = {} if bound == fields[name] else needs.get(name, {})
                field = {name.replace(".", "__"): type(fields[name])(bound)}
                rules.check(config_with(**others, **field))


@pytest.mark.parametrize("seeds", [(0, 0), (0.5,), (-1, 2), (True, 2), ("1",)])
def test_seeds_that_are_none_are_refused(seeds: tuple) -> None:
    with pytest.raises(UserError, match=r"config\.seeds=.* expected different whole numbers"):
        rules.check(small_config(seeds=seeds))


DEFAULTS = dict(rules.flatten(default.get_config()))
OTHER_RULES = {
    "data__unreadable": "refuse",
    "data__test_fraction": 0.1,
    "data__store_size": 80,
    "optimizer__milestones": (0.75, 0.5),
    "data__std": (1.0, 0.0, 1.0),
    "model__groups": 3,
    "model__stride_in": "last_block",
    "gpu__visible_devices": "gpu0",
    "seeds": (1, 1),
    "data__rendered_size": 9,
}
WRONG_VALUES = [
    *((name, 3 if isinstance(value, str) else "wrong") for name, value in DEFAULTS.items()),
    *((name, low - 1) for name, (low, _) in rules.BOUNDS.items() if low is not None),
    *(
        (name, high + 1 if high < 2**53 else 2 * high)
        for name, (_, high) in rules.BOUNDS.items()
        if high is not None
    ),
    *((name, "none of them") for name in rules.CHOICES if isinstance(DEFAULTS[name], str)),
    *((name.replace("__", "."), value) for name, value in OTHER_RULES.items()),
]


def test_every_refusal_begins_with_the_field_as_it_can_be_typed() -> None:
    for name, value in WRONG_VALUES:
        line = refusal(config_with(**{name.replace(".", "__"): value}))
        assert line.startswith((f"config.{name}={value!r}: ", f"config.{name}={value}: ")), line


# Suggestions


def test_other_names_lead_to_fields_that_there_are() -> None:
    assert set(rules.ALIASES.values()) <= DEFAULTS.keys()
    for name, field in rules.ALIASES.items():
        assert rules.suggest_field(name) == rules.suggest_field(f"config.optimizer.{name}") == field


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("learning-rate", "optimizer.learning_rate"),
        ("wd", "optimizer.weight_decay"),
        ("batch-size", "batch_size"),
        ("model.detph", "model.depth"),
        ("depth", "model.depth"),
        ("mixup", "augment.mixup"),
        ("nonsense", None),
    ],
)
def test_a_wrong_name_suggests_the_field_that_is_meant(name: str, field: str | None) -> None:
    assert rules.suggest_field(name) == field


# The library's own defaults


def test_the_library_and_the_config_have_the_same_defaults() -> None:
    config = default.get_config()
    assert rules.preprocessing_of(config) == Preprocessing()
    # A fresh network of the config starts as the identity; how the weights of others started is not known.
    assert config.model.zero_init_last
    config.model.zero_init_last = False
    assert rules.architecture_of(config.model) == Architecture()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hosts.coordinator": "node1:8476"}, "config.hosts.number: missing, while coordinator is set"),
        ({"hosts.number": 2, "hosts.index": 0}, "config.hosts.coordinator: missing, while number, index is"),
        ({"hosts.coordinator": "node1:8476", "hosts.number": 2}, "config.hosts.index: missing"),
        (HOSTS | {"hosts.index": 2}, "config.hosts.index=2: out of range, expected 0 to 1"),
        (HOSTS | {"hosts.coordinator": "node1"}, "expected HOST:PORT"),
        (HOSTS | {"hosts.coordinator": "node1:0"}, "expected HOST:PORT"),
        (HOSTS | {"hosts.coordinator": "node1:65536"}, "expected HOST:PORT"),
        (HOSTS | {"hosts.coordinator": "http://node1:8476"}, "expected HOST:PORT"),
        (HOSTS | {"hosts.coordinator": "::1:8476"}, "expected HOST:PORT"),
        (HOSTS | {"hosts.timeout": 1}, "config.hosts.timeout=1: out of range"),
        (HOSTS | {"hosts.number": -1}, "config.hosts.number=-1: out of range"),
    ],
)
def test_hosts_that_do_not_fit_together(fields: dict[str, object], expected: str) -> None:
    assert expected in refusal(small_config(**fields))


@pytest.mark.parametrize("coordinator", ["node1:8476", "10.0.0.1:1", "[::1]:65535", "resnet-0.resnet:80"])
def test_hosts_that_fit_together(coordinator: str) -> None:
    rules.check(small_config(**HOSTS | {"hosts.coordinator": coordinator}))
