"""A run's `config.json`: written, read and compared with the settings of a second start."""

import json
from pathlib import Path

import pytest

from configs import default, rules
from resnet.errors import UserError
from resnet.run import NETWORK_FIELDS, TRAINING_FIELDS, read_run
from tests.damages import put_in_place
from tests.runs import config_with
from workdir import settings
from workdir.settings import Sources

CLASSES = ("0", "1", "zwei")


# config.json


def test_saving_and_loading_gives_the_same_fields(tmp_path: Path) -> None:
    config = config_with(
        seed=7, data__mean=(0.1, 0.2, 0.3), data__dir="a folder/ä", model__residual=False, optimizer__b1=0
    )
    workdir = tmp_path / "new" / "run"
    settings.save(config, CLASSES, workdir)
    loaded, class_names = settings.load(workdir)
    assert class_names == CLASSES
    old, new = dict(rules.flatten(config)), dict(rules.flatten(loaded))
    assert new == old
    assert isinstance(new["data.mean"], tuple)
    assert {path.name for path in workdir.iterdir()} == {"config.json"}


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"^--workdir=.*file/run: cannot be written \(.*\); name another folder"
    ):
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
        stored_text(depth=True),
        stored_text(norm_epsilon="[" * 100_000),
        stored_text().replace('"class_names"', '"class_names": ["0"], "gamma"'),
        stored_text().replace('"zwei"', '"1"'),
        stored_text().replace('"zwei"', "2"),
        json.dumps({"config": {"model": 18}, "class_names": ["0"]}),
        json.dumps({"config": {"model.depth": 34}, "class_names": ["0"]}),
        json.dumps({"config": {"data": {"mean": [10**400, 0, 0]}}, "class_names": ["0"]}),
        json.dumps({"config": {"data": {"mean": [True, 0, 0]}}, "class_names": ["0"]}),
        json.dumps({"config": {"seed": None}, "class_names": ["0"]}),
        json.dumps({"config": {"seeds": [1, 1]}, "class_names": ["0"]}),
        '{"config": ' + "[" * 100_000,
        '{"config": ' + "9" * 5000 + "}",
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        settings.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"config\.json: is not UTF-8"):
        settings.load(tmp_path)


def test_fields_that_are_unknown_or_out_of_range_are_refused_on_loading(tmp_path: Path) -> None:
    for changes, line in [
        ({"detph": 50}, "config.model.detph: no such field; did you mean config.model.depth?"),
        ({"norm_epsilon": 10**400}, "config.model.norm_epsilon: too large a number, expected one that is"),
        ({"depth": 51}, "config.model.depth=51: expected one of 16, 18, 20, 28,"),
    ]:
        (tmp_path / "config.json").write_text(stored_text(**changes))
        with pytest.raises(UserError) as caught:
            settings.load(tmp_path)
        assert line in str(caught.value)


def test_the_library_knows_every_field_and_refuses_others_by_name(tmp_path: Path) -> None:
    config = default.get_config()
    settings.save(config, CLASSES, tmp_path)
    assert read_run(tmp_path).class_names == CLASSES
    for section in ("", "data.", "model."):
        own = config[section[:-1]] if section else config
        assert {*TRAINING_FIELDS[section], *NETWORK_FIELDS[section]} == {*own}
    for changes, name in [({"blur": 1}, r"config\.blur"), ({"data": {"gamma": 2.0}}, r"config\.data\.gamma")]:
        (tmp_path / "config.json").write_text(json.dumps({"config": changes, "class_names": CLASSES}))
        with pytest.raises(UserError, match=f"config.json: {name}: no such field in this version"):
            read_run(tmp_path)
        with pytest.raises(UserError, match=f"config.json: {name}: no such field"):
            settings.load(tmp_path)


def test_fields_that_are_missing_have_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "class_names": CLASSES}))
    config, _ = settings.load(tmp_path)
    assert dict(rules.flatten(config)) == dict(rules.flatten(default.get_config()))
    assert read_run(tmp_path).architecture.depth == config.model.depth


# Resuming


def test_initial_weights_are_compared_by_what_they_are(tmp_path: Path) -> None:
    config = config_with(init_from="old.safetensors")
    settings.save(config, CLASSES, tmp_path, Sources(weights="a"))
    moved = config_with(init_from="new.safetensors")
    settings.check_same_run(moved, tmp_path, Sources(weights="a"))
    for other in (moved, config):
        with pytest.raises(UserError, match=r"other settings: init_from|started from other weights"):
            settings.check_same_run(other, tmp_path, Sources(weights="b"))
    settings.save(config, CLASSES, tmp_path)  # as older versions did
    settings.check_same_run(config, tmp_path, Sources(weights="a"))
    with pytest.raises(UserError, match=r"other settings: init_from"):
        settings.check_same_run(moved, tmp_path, Sources(weights="a"))


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "folder", "pipe", "dangling link", "link loop"])
def test_a_damaged_table_of_images_is_told_and_the_digest_decides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    table = "split\tclass\tfile\tsha256\n" + "".join(f"train\tcat\t{i}.png\t{i}\n" for i in range(9))
    sources = Sources(images="a", table=table)
    settings.save(default.get_config(), CLASSES, tmp_path, sources)
    put_in_place(tmp_path / "images.tsv", damage)
    settings.check_same_run(default.get_config(), tmp_path, sources)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == (damage != "dangling link")
    assert all("images.tsv" in line and "is left out" in line for line in lines)


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


@pytest.mark.parametrize("name", sorted(dict(rules.flatten(default.get_config()))))
def test_every_other_field_must_stay(tmp_path: Path, name: str) -> None:
    free = ("seeds_together", "num_epochs", "steps_per_call", "test_time_flip", "temperature",
            "optimizer.learning_rate", "compilation_cache", "data.dir", "data.placement",
            "data.loader_processes", "checkpoint.", "gpu.", "hosts.")  # fmt: skip
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.001, str: lambda v: v + "x",
             tuple: lambda v: (*v[:2], 0.9)}  # fmt: skip
    config = default.get_config()
    settings.save(config, CLASSES, tmp_path)
    value = dict(rules.flatten(config))[name]
    changed = config_with(**{name.replace(".", "__"): other[type(value)](value)})
    if name.startswith(free):
        settings.check_same_run(changed, tmp_path)
    else:
        with pytest.raises(UserError, match=rf"other settings: {name} \(there "):
            settings.check_same_run(changed, tmp_path)


def test_seeds_may_join_and_none_may_be_left_out(tmp_path: Path) -> None:
    settings.save(config_with(seeds=(4, 1, 0)), CLASSES, tmp_path)
    for seeds in ((4, 1, 0), (0, 1, 4), (2, 0, 1, 4)):
        settings.check_same_run(config_with(seeds=seeds), tmp_path)
    for seeds in ((4, 1), (4, 1, 2)):
        with pytest.raises(UserError) as caught:
            settings.check_same_run(config_with(seeds=seeds), tmp_path)
        assert str(caught.value) == (
            f"config.seeds={seeds}: the run in {tmp_path} has the seeds (4, 1, 0); others may join them, and"
            " none may be left out"
        )


def test_num_epochs_may_not_shrink(tmp_path: Path) -> None:
    settings.save(default.get_config(), CLASSES, tmp_path)
    with pytest.raises(
        UserError, match=r"^config\.num_epochs=39: the run in .* was set to 40; it may grow, not"
    ):
        settings.check_same_run(config_with(num_epochs=39), tmp_path)
