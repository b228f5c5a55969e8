"""Cross-validation of recipes: real folds of small networks, without a look at the test split."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cross_validation
from benchmarks.cross_validation import Variant, parse_variants
from resnet.errors import UserError
from tests.benchmarks.small_runs import SMALL
from tests.command_line import ROOT
from workdir import settings

ALLOWED = ("config.json", "eval_rendered_test.json")  # "test" means something else in them.


def test_variants_are_compared_on_folds_and_the_test_split_stays_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "cv"
    flags = [
        "--folds=2",
        "--jobs=2",
        "--rendered=12",
        f"--workdir={workdir}",
        *SMALL,
        "--variant",
        "short: --config.num_epochs=1",
    ]
    monkeypatch.setattr(sys, "argv", ["cross_validation", "--config=configs/default.py", *flags])
    assert cross_validation.main() == 0, capsys.readouterr().err
    report = json.loads((workdir / "cross_validation.json").read_text())
    (row,) = report["variants"]
    assert (row["name"], row["settings"]) == ("short", ["--config.num_epochs=1"])
    assert [fold["images"] for fold in row["folds"]] == [12, 12]
    accuracies = [fold["accuracy"] for fold in row["folds"]]
    assert row["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert row["std"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    for fold in range(2):
        folder = workdir / "short" / f"fold_{fold}"
        config, _ = settings.load(folder)
        assert (config.data.fold, config.data.folds, config.num_epochs) == (fold, 2, 1)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["ema"]["val"]["accuracy"] == row["folds"][fold]["accuracy"]
        corrupted, rendered = (
            json.loads((folder / f"eval_{name}.json").read_text())
            for name in ("val_extra_corruptions", "rendered_test")
        )
        assert corrupted["mean"] == row["folds"][fold]["accuracy_extra_corruptions"]
        assert (rendered["accuracy"], rendered["images"]) == (row["folds"][fold]["accuracy_rendered"], 12)
        files = (path for path in folder.glob("*.json*") if path.name not in ALLOWED)
        assert not any('"test"' in path.read_text() for path in files)
    table = (workdir / "cross_validation.md").read_text()
    assert table in capsys.readouterr().out
    assert table.splitlines()[2].startswith("| short")


def test_a_stopped_benchmark_stops_its_runs_and_they_save(tmp_path: Path) -> None:
    flags = ["--folds=2", f"--workdir={tmp_path}", *SMALL, "--config.num_epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cross_validation", "--config=configs/default.py", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert any((tmp_path / "base" / "fold_0" / "checkpoints").iterdir())
    assert not (tmp_path / "cross_validation.json").exists()


@pytest.mark.parametrize("config", ["folder", "hands"])
def test_folds_take_the_place_of_the_validation_images_of_a_config(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [f"--config=configs/{config}.py", "--folds=3", "--config.data.dir=photos"]
    monkeypatch.setattr(sys, "argv", ["cross_validation", *flags])
    runs = cross_validation._fold_runs(Variant("base", []), *cross_validation._parse())
    data = [run.config().data for run in runs]
    assert [(fold.fold, fold.folds, fold.val_fraction) for fold in data] == [(i, 3, 0.0) for i in range(3)]


def test_variants_are_read_as_written() -> None:
    assert parse_variants(["base:", 'wide : --config.model.width=8 --config.augment.flip="0.0"']) == [
        Variant("base", []),
        Variant("wide", ["--config.model.width=8", "--config.augment.flip=0.0"]),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["base"], "expected a name"),
        (["../up: --config.seed=1"], "expected a name"),
        (["a:", "a:"], "defined twice"),
        (["a: --workdir=x"], "found --workdir=x"),
        (["a: --config.data.fold=1"], "found --config.data.fold=1"),
    ],
)
def test_invalid_variants_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_variants(lines)
