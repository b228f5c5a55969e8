"""The same recipe for PyTorch: what it takes over, and what it refuses not to know."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from benchmarks.time_to_accuracy import check_is_known, format_report, make_recipe, peer_result, read_peer
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
        {"name": "this project", "seed": 0, "accuracy": 0.9, "epoch": 9.0, "seconds": 300.0},
        {"name": "PyTorch, float32", "seed": 0, "accuracy": 0.9, "epoch": 9, "seconds": 200.0},
        {"name": "this project", "seed": 1, "accuracy": 0.8, "epoch": None, "seconds": None},
    ]
    lines = format_report({"runs": runs, "target": 0.88}).splitlines()
    assert lines[-2].endswith("1.50")
    assert "never" in lines[-1]


def test_an_epoch_beside_other_work_does_not_count() -> None:
    accuracies_and_seconds = [(0.5, 10.0), (0.7, 20.0), (0.9, 300.0), (0.91, 310.0)]
    lines = [
        {"epoch": epoch, "seconds": seconds, "accuracy": accuracy}
        for epoch, (accuracy, seconds) in enumerate(accuracies_and_seconds, 1)
    ]
    assert peer_result("PyTorch", 0, lines, 0.88)["seconds"] == 30.0
    assert peer_result("PyTorch", 0, lines, 0.95)["seconds"] is None


def test_epochs_of_smaller_images_have_a_speed_of_their_own() -> None:
    seconds = [4.0, 8.0, 100.0, 110.0, 120.0, 130.0]  # the third epoch beside other work
    lines = [{"epoch": epoch, "seconds": s, "accuracy": epoch / 10} for epoch, s in enumerate(seconds, 1)]
    assert peer_result("PyTorch", 0, lines, 0.2, early=3.0)["seconds"] == 8.0
    assert peer_result("PyTorch", 0, lines, 0.2, early=0.5)["seconds"] == 2 * 10.0  # No epoch is all early.
    assert peer_result("PyTorch", 0, lines, 0.5, early=3.0)["seconds"] == 3 * 4.0 + 2 * 10.0


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
