"""The table of accuracy over seeds, from a real run of small networks and from rows by hand."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.runs import Measurement, Run, train_all
from resnet.errors import UserError
from tests.benchmarks.small_runs import SMALL
from tests.runs import small_config
from workdir import settings
from workdir.metrics import read_metrics


def test_seeds_are_trained_once_and_tabulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, report_file = tmp_path / "run", tmp_path / "accuracy.json"
    flags = [
        "--seeds=2",
        "--jobs=2",
        "--time_to=0.01",
        "--rendered=12",
        f"--workdir={workdir}",
        f"--json={report_file}",
        *SMALL,
    ]
    monkeypatch.setattr(sys, "argv", ["accuracy", "--config=configs/default.py", *flags])
    assert accuracy.main() == 0, capsys.readouterr().err
    report = json.loads(report_file.read_text())
    summary = json.loads((workdir / "summary.json").read_text())
    for seed in ("0", "1"):
        results, seed_summary = report["seeds"][seed], summary["seeds"][seed]
        assert results["test"]["accuracy"] == seed_summary["ema"]["test"]["accuracy"]
        assert results["test"]["loss"] == pytest.approx(seed_summary["ema"]["test"]["loss"], rel=1e-4)
        assert results["seconds"] == seed_summary["seconds"]
        assert results["rendered"]["images"] == 12
        assert [
            line["epoch"] for line in read_metrics(workdir / f"seed_{seed}") if line["split"] == "test"
        ] == [1, 2]
    assert report["mean"]["test"]["loss"] > 0
    assert report["std"]["test"]["calibration"]["ece"] >= 0
    assert {"machine", "versions", "ensemble"} <= set(report)
    printed = capsys.readouterr().out
    assert "expected calibration error" in printed
    assert "accuracy on rendered hands" in printed

    # Again: nothing runs, the table is the same.
    monkeypatch.setattr("benchmarks.runs._start", None)
    assert accuracy.main() == 0
    assert json.loads(report_file.read_text())["seeds"] == report["seeds"]


def test_other_seeds_are_refused_before_any_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--jobs=2", f"--workdir={tmp_path / 'run'}", "--config.seeds=0,1", *SMALL]
    monkeypatch.setattr(sys, "argv", ["accuracy", "--config=configs/default.py", *flags])
    assert accuracy.main() == 2
    assert capsys.readouterr().err.startswith("error: config.seeds=0,1: the benchmark sets this field itself")
    assert not (tmp_path / "run").exists()


def write_summary(workdir: Path, run: Run, **fields: object) -> None:
    """Writes the part of a summary by which a run is recognised as finished."""
    config = run.config()
    summary = {"steps": 99, "epochs": config.num_epochs, "prediction": settings.prediction(config)}
    (workdir / "summary.json").write_text(json.dumps(summary | fields))


def test_results_older_than_the_settings_beside_them_are_not_used(tmp_path: Path) -> None:
    """A training that was resumed with more seeds and killed leaves such results."""
    flags = ["--config=configs/default.py", "--config.seeds=0,1,2", "--config.temperature=0.5"]
    run = Run(str(tmp_path), flags, measurements=(Measurement("test"),))
    settings.save(run.config(), ("0",), tmp_path)
    seeds = {"seeds": {"0": {}, "1": {}, "2": {}}}
    evaluation = {"step": 99, "weights": "ema", "prediction": settings.prediction(run.config())} | seeds

    def is_finished_with(summary_fields: dict, evaluation_fields: dict) -> bool:
        write_summary(tmp_path, run, **seeds | summary_fields)
        (tmp_path / "eval_test.json").write_text(json.dumps(evaluation | evaluation_fields))
        return run.is_finished()

    assert is_finished_with({}, {})
    fewer, hotter = {"seeds": {"0": {}, "1": {}}}, {"prediction": "test_time_flip=False temperature=1"}
    for wrong in (fewer, hotter):
        assert not is_finished_with(wrong, {})
        assert not is_finished_with({}, wrong)
    assert not is_finished_with({"epochs": 20}, {})


def test_a_run_of_other_settings_is_not_finished(tmp_path: Path) -> None:
    run = Run(str(tmp_path), ["--config=configs/default.py", "--config.num_epochs=3"])
    assert not run.is_finished()
    settings.save(run.config(), ("0",), tmp_path)
    write_summary(tmp_path, run)
    assert run.is_finished()
    assert not run._replace(arguments=run.arguments[:1]).is_finished()
    assert not run._replace(measurements=(Measurement("test"),)).is_finished()


def test_a_measurement_of_something_else_is_not_used(tmp_path: Path) -> None:
    hands = Measurement("test", rendered=60)
    run = Run(str(tmp_path), ["--config=configs/default.py"], measurements=(hands,))
    settings.save(run.config(), ("0",), tmp_path)
    write_summary(tmp_path, run)
    prediction = {"prediction": settings.prediction(run.config())}
    data = hands.other_data(run.config().data).to_dict()
    right = {"step": 99, "weights": "ema", "data": data} | prediction
    others = {**data, "variety": 0.3}
    for wrong in ({"step": 66}, {"weights": "raw"}, {"data": others}, {"data": None}):
        (tmp_path / hands.file).write_text(json.dumps(right | wrong))
        assert not run.is_finished()
    (tmp_path / hands.file).write_text(json.dumps(right))
    assert run.is_finished()
    assert not run._replace(measurements=(Measurement("test", rendered=61),)).is_finished()


@pytest.mark.parametrize("jobs", [1, 2])
def test_missing_data_are_reported_in_the_line_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], jobs: int
) -> None:
    missing = f"--config.data.dir={tmp_path / 'nowhere'}"
    flags = ["--seeds=1", f"--jobs={jobs}", f"--workdir={tmp_path / 'run'}", missing]
    monkeypatch.setattr(sys, "argv", ["accuracy", "--config=configs/default.py", *flags])
    # A single run has printed its line already, and only the exit code is left.
    try:
        code = accuracy.main()
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'nowhere'}")


@pytest.mark.parametrize("change", ["num_epochs=80", "optimizer.learning_rate=0.5", "augment.noise=0.5"])
def test_runs_of_other_settings_are_refused_before_any_is_trained(tmp_path: Path, change: str) -> None:
    old = Run(str(tmp_path / "old"), ["--config=configs/default.py"])
    settings.save(old.config(), ("0",), tmp_path / "old")
    first = Run(str(tmp_path / "new"), ["--config=configs/default.py"])
    second = old._replace(arguments=[*old.arguments, f"--config.{change}"])
    with pytest.raises(UserError, match=rf"old: holds a run .*{change.partition('=')[0]}"):
        train_all([first, second])
    typo = first._replace(arguments=[*first.arguments, "--config.num_epoch=80"])
    with pytest.raises(UserError, match=r"did you mean config\.num_epochs"):
        train_all([first, typo])
    assert not (tmp_path / "new").exists()


def test_time_to_an_accuracy_counts_steps_until_the_first_epoch_that_had_it() -> None:
    lines = [
        {"step": 2, "epoch": 0.5, "split": "train", "images_per_second": 10.0},
        {"step": 4, "epoch": 1, "split": "train", "images_per_second": 20.0},
        {"step": 4, "epoch": 1, "split": "test", "accuracy": 0.97},
        {"step": 6, "epoch": 1.5, "split": "train", "images_per_second": 20.0},
        {"step": 8, "epoch": 2, "split": "train", "images_per_second": 20.0},
        {"step": 8, "epoch": 2, "split": "test", "accuracy": 0.98},
        {"step": 12, "epoch": 3, "split": "test", "accuracy": 1.0},
    ]
    # Eight steps of 5 images. Two of them were slow, which the median passes over.
    config = small_config(batch_size=5)
    assert accuracy.time_to(lines, config, 0.98) == {"epoch": 2.0, "seconds": pytest.approx(8 * 5 / 20)}
    assert accuracy.time_to(lines[:4], config, 0.98) is None


def test_the_table_shows_spread_worst_seed_and_targets() -> None:
    def seed(value: float, loss: float) -> dict:
        return {"test": {"accuracy": value, "loss": loss, "without_twins": {"images": 0}}, "seconds": 100.0}

    rows = accuracy.format_table({"0": seed(1.0, 0.01), "1": seed(0.99, 0.04)}).splitlines()
    row = {line.split("  ")[0]: line for line in rows}
    assert "0.9950 ± 0.0071" in row["test accuracy"]
    assert "mean ≥ 0.996: missed, each ≥ 0.991: missed" in row["test accuracy"]
    assert row["test accuracy"].split("  ")[-1] == "1.0000 0.9900"
    assert "mean ≤ 0.03: met" in row["test cross-entropy"]
    assert "each ≤ 1200: met" in row["seconds of training"]
    assert not any("twins" in name or "corruptions" in name for name in row)
