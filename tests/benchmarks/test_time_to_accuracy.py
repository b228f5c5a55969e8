"""The same recipe for PyTorch: what it takes over, and what it refuses not to know."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from benchmarks.time_to_accuracy import (
    check_is_known,
    format_report,
    make_recipe,
    peer_result,
    phases_of,
    read_peer,
    seconds_to,
)
from configs import cifar10_short
from resnet.errors import UserError


def config_with(**fields: Any) -> ConfigDict:
    config = cifar10_short.get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def test_the_recipe_is_that_of_the_config() -> None:
    config = config_with(num_epochs=4, batch_size=100, optimizer__warmup_epochs=1.0, seed=3)
    recipe = json.loads(json.dumps(make_recipe(config, classes=10, train_size=1050, dtype="float32")))
    rates = recipe["learning_rates"]
    assert len(rates) == 4 * 10
    assert rates[0] == 0
    assert max(rates) == rates[10] == pytest.approx(config.optimizer.learning_rate)
    for name in ("seed", "batch_size", "label_smoothing", "ema_decay", "test_time_flip"):
        assert recipe[name] == config[name]
    assert (recipe["depth"], recipe["width"], recipe["pad"]) == (20, 16, config.augment.pad)
    early = config_with(augment__early_size=24, augment__early_share=0.5)
    recipe = make_recipe(early, classes=10, train_size=1050, dtype="float32")
    assert (recipe["early_size"], recipe["early_share"]) == (24, 0.5)


@pytest.mark.parametrize(
    "fields",
    [{"augment__mixup": 0.2}, {"model__shortcut": "projection"}, {"optimizer__name": "adamw"},
     {"optimizer__accumulate": 2}, {"loss__name": "sigmoid"}, {"augment__rotation": 5.0}],
)  # fmt: skip
def test_what_pytorch_does_not_know_is_refused(fields: dict[str, Any]) -> None:
    check_is_known(config_with())
    [name] = fields
    with pytest.raises(UserError, match=f"config.{name.replace('__', '.')}="):
        check_is_known(config_with(**fields))


def test_the_ratio_is_of_the_same_seed() -> None:
    runs = [
        {"name": "ours", "seed": 0, "accuracy": 0.9, "epoch": 9.0, "seconds": 300.0},
        {"name": "torch_float32", "seed": 0, "accuracy": 0.9, "epoch": 9.0, "seconds": 200.0},
        {"name": "ours", "seed": 1, "accuracy": 0.8, "epoch": None, "seconds": None},
    ]
    lines = format_report({"runs": runs, "target": 0.88}).splitlines()
    assert lines[-2].endswith("1.50")
    assert "never" in lines[-1]


def test_the_first_epoch_at_the_target_counts() -> None:
    lines = [{"epoch": epoch, "accuracy": a} for epoch, a in enumerate([0.5, 0.9, 0.7, 0.91], 1)]
    found = peer_result("float32", 3, lines, 0.88)
    assert found == {"name": "torch_float32", "seed": 3, "accuracy": 0.91, "epoch": 2.0}
    assert peer_result("float32", 3, lines, 0.95)["epoch"] is None


def test_each_size_of_the_images_has_a_speed_of_its_own() -> None:
    config = config_with(num_epochs=10, batch_size=100, augment__early_size=24, augment__early_share=0.45)
    phases = phases_of(config, 1050)
    assert [phase.image_size for phase in phases] == [24, 32]
    assert [phase.first_step for phase in phases] == [0, 50]  # The fifth epoch has both sizes.
    speed = [
        {"rows": [{"name": name, "images_per_second": {"median": rate}} for name, rate in rates.items()]}
        for rates in ({"ours": 100.0, "torch_float32": 50.0}, {"ours": 10.0, "torch_float32": 20.0})
    ]

    def seconds(name: str, epoch: float | None) -> float | None:
        return seconds_to({"name": name, "epoch": epoch}, speed, phases)

    assert seconds("ours", 4.0) == pytest.approx(4 * 10)
    assert seconds("ours", 7.0) == pytest.approx(4.5 * 10 + 2.5 * 100)
    assert seconds("torch_float32", 7.0) == pytest.approx(4.5 * 20 + 2.5 * 50)
    assert seconds("ours", None) is None
    [only] = phases_of(config_with(augment__early_size=0, augment__early_share=0.0), 1050)
    assert (only.image_size, only.first_step) == (32, 0)
    [only] = phases_of(config_with(augment__early_share=1.0), 1050)
    assert only.image_size == 24


def test_lines_of_another_recipe_are_not_taken_over(tmp_path: Path) -> None:
    results, recipe_file = tmp_path / "torch.jsonl", tmp_path / "torch.json"
    results.write_text('{"epoch": 1, "accuracy": 0.5}\n')
    recipe = {"mean": (0.5, 0.5), "epochs": 1}
    with pytest.raises(UserError, match="another recipe or on other images"):
        read_peer(results, recipe_file, recipe)
    recipe_file.write_text(json.dumps(recipe))
    assert read_peer(results, recipe_file, recipe) == [{"epoch": 1, "accuracy": 0.5}]
    with pytest.raises(UserError, match="another recipe or on other images"):
        read_peer(results, recipe_file, recipe | {"epochs": 2})
