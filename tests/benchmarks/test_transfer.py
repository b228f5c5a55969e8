"""Fine-tuning and training from scratch are compared on equal terms; the report and its picture."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import train
from benchmarks import transfer
from benchmarks.transfer import Run, list_runs, make_config, pretraining_config, summarize_cells
from configs import rules
from resnet import Classifier
from tests.benchmarks.small_runs import differing_fields

# The accuracies of the seeds, by start and number of epochs.
ACCURACIES = {("scratch", 2): [0.2, 0.4], ("rendered", 2): [0.8, 0.9], ("scratch", 3): [0.5, 0.5]}


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """A function of command-line arguments that returns the options."""

    def parse(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["transfer", f"--workdir={tmp_path / 'runs'}", *arguments])
        return transfer._parse()

    return parse


def test_there_is_a_run_for_each_start_seed_and_number_of_epochs(parse: Callable[..., Any]) -> None:
    runs = list(list_runs(parse("--epochs=2,5", "--seeds=3")))
    assert len(runs) == len({run.name for run in runs}) == 12
    assert set(runs) == {Run(s, e, i) for s in ("scratch", "rendered") for e in (2, 5) for i in (0, 1, 2)}


def test_the_two_starts_differ_in_start_and_recipe_alone(parse: Callable[..., Any]) -> None:
    options = parse("--width=8", "--depth=34", "--signs_dir=there")
    scratch, tuned = (make_config(Run(start, 2, 1), options) for start in ("scratch", "rendered"))
    for config in (scratch, tuned, pretraining_config(options)):
        rules.check(config)
        assert (config.model.depth, config.model.width) == (34, 8)
    assert tuned.init_from == str(options.workdir / "pretrained_10_epochs")
    assert differing_fields(scratch, tuned) == {
        "init_from",
        "optimizer.learning_rate",
        "finetune.layer_decay",
    }
    assert (scratch.seed, scratch.num_epochs, scratch.data.dir) == (1, 2, "there")
    assert scratch.data.rendered_size == 0  # Otherwise it would see rendered hands, too.
    assert (scratch.data.name, pretraining_config(options).data.name) == ("signs", "rendered")


@pytest.mark.parametrize(("epochs", "warmup"), [(2, 0.5), (3, 0.75), (10, 1.0)])
def test_the_warm_up_is_at_most_a_quarter_of_a_run(
    parse: Callable[..., Any], epochs: int, warmup: float
) -> None:
    for start in transfer.STARTS:
        config = make_config(Run(start, epochs, 0), parse())
        assert config.optimizer.warmup_epochs == warmup


def test_cells_have_the_mean_and_the_deviation_of_a_sample() -> None:
    values = [0.7, 0.8, 0.95]
    runs = [{"start": "scratch", "epochs": 2, "seed": i, "accuracy": v} for i, v in enumerate(values)]
    [cell, single] = summarize_cells([*runs, {"start": "rendered", "epochs": 2, "seed": 0, "accuracy": 1.0}])
    assert cell["mean"] == pytest.approx(sum(values) / 3)
    assert cell["std"] == pytest.approx((sum((v - cell["mean"]) ** 2 for v in values) / 2) ** 0.5)
    assert (single["mean"], single["std"], single["seeds"]) == (1.0, None, 1)


def test_report_and_picture(
    monkeypatch: pytest.MonkeyPatch,
    parse: Callable[..., Any],
    tmp_path: Path,
    shared_signs_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    started = []

    def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
        started.append(workdir.name)
        start = "rendered" if config.init_from else "scratch"
        accuracy = ACCURACIES.get((start, config.num_epochs), [0.99, 0.97])[config.seed]
        scores = {"test": {"accuracy": accuracy, "loss": 1.0}}
        return {**scores, "ema": scores, "parameters": 7, "seconds": 1.5}

    class AlwaysTwo:
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            return np.tile(np.eye(6)[2], (len(images), 1))

    monkeypatch.setattr(train, "train_and_evaluate", train_and_evaluate)
    monkeypatch.setattr(Classifier, "load", lambda workdir: AlwaysTwo())
    monkeypatch.setattr(transfer.environment, "prepare", lambda gpu, **options: None)
    monkeypatch.setattr(transfer.command_line, "select_device", lambda options: None)
    picture, report = tmp_path / "docs" / "transfer.png", tmp_path / "transfer.json"
    flags = [f"--signs_dir={shared_signs_dir}", f"--json={report}", f"--plot={picture}"]
    transfer._run(parse("--epochs=2,3", "--seeds=2", *flags))
    assert started[0] == "pretrained_10_epochs"
    assert len(started) == 9
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split() == ["2", "0.3000", "±", "0.1414", "0.8500", "±", "0.0707"]
    assert lines[-1].split() == ["3", "0.5000", "±", "0.0000", "0.9800", "±", "0.0141"]
    written = json.loads(report.read_text())
    assert len(written["runs"]) == 8
    assert written["pretraining"]["accuracy_on_signs"] == pytest.approx(1 / 6)
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 400


def test_a_missing_data_set_is_reported_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, parse: Callable[..., Any], tmp_path: Path
) -> None:
    monkeypatch.setattr(train, "train_and_evaluate", None)
    monkeypatch.setattr(transfer.environment, "prepare", lambda gpu, **options: None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "train_signs.h5").write_text("no HDF5")
    parse("--device=gpu", f"--signs_dir={tmp_path / 'empty'}")
    assert transfer.main() == 2
