"""The page of the report: what it shows beside the run's own scores."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs import default
from evaluation.report import page
from evaluation.trained_run import TrainedRun
from resnet.files import write_json
from workdir import settings

RESULT = {"mean": 0.5, "clean": 0.9, "by_severity": [0.5] * 5, "corruptions": {"fog": [0.5] * 5}}


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": {"x": 1}},
        {"clean": "0.9"},
        {"by_severity": [0.5] * 4},
        {"corruptions": {"fog": [0.5] * 4 + [None]}},
        {"corruptions": []},
        {"seeds": {}},
    ],
)
def test_damaged_results_are_told_and_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    run = TrainedRun(
        default.get_config(), ("0",), {}, None, None, None, step=9, kind="ema", batch_size=32, predict=None
    )
    path = tmp_path / "eval_test_standard_corruptions.json"
    for text in (json.dumps({**run.identity, **RESULT, **changes}), "[" * 100_000, ""):
        path.write_text(text)
        assert page._corruptions(run, tmp_path, "test") == []
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"warning: {path}: ") and "left out" in line for line in lines)


def test_only_pictures_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    for name in ("mistakes.png", "mine.png"):
        (tmp_path / name).touch()
    page._write(tmp_path, "page", [page.Section("Hits", "", {"least_confident_hits.png": b"hits"})])
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["index.html", "least_confident_hits.png", "mine.png"]


def test_pictures_have_their_title_and_captions_as_text() -> None:
    section = page.Section("Mistakes", "", {"mistakes.png": b"png"}, captions=["猫: 0.98\ntrue <犬>: 0.01"])
    source = page._render(title="run", subtitle="", facts=[], sections=[section])
    assert '<img alt="Mistakes" src="data:image/png;base64,cG5n">' in source
    assert "<li>猫: 0.98, true &lt;犬&gt;: 0.01</li>" in source
    source = page._render(title="run", subtitle="", facts=[], sections=[page.Section("Mistakes", "")])
    assert "<ol>" not in source


def test_corruptions_of_other_seeds_and_predictions_are_not_shown(tmp_path: Path) -> None:
    config = default.get_config()
    config.seeds = (0, 1)
    # Its network is not asked.
    run = TrainedRun(
        config, ("0", "1"), {}, None, None, None, step=9, kind="ema", batch_size=32, predict=None
    )
    mean = {"mean": 0.5, "clean": 0.9, "by_severity": [0.5] * 5, "corruptions": {"fog": [0.5] * 5}}
    identity = {"step": 9, "weights": "ema", "prediction": settings.prediction(config)}
    result = {**identity, "mean": mean, "seeds": {"0": mean, "1": mean}}
    write_json(tmp_path / "eval_test_standard_corruptions.json", result)
    (section,) = page._corruptions(run, tmp_path, "test")
    assert "0.5000 in the mean, 0.9000 on clean images" in section.text
    config.test_time_flip = True
    assert page._corruptions(run, tmp_path, "test") == []
    config.update(test_time_flip=False, seeds=(0, 1, 2))
    assert page._corruptions(run, tmp_path, "test") == []
