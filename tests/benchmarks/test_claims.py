"""The runs that check the claims compare like with like; their tables, report and pictures."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import claims, claims_plot
from benchmarks.claims import PUBLISHED, Case, format_group, loss_by_epoch, make_cases, make_row
from configs import rules
from resnet.errors import UserError
from tests.benchmarks.small_runs import SMALL, differing_fields
from training.network import make_network
from workdir.metrics import read_metrics

RESERVED = ("num_epochs", "batch_size", "model.depth", "model.width", "data.train_size")
SHARED = [flag for flag in SMALL if not flag[len("--config.") :].startswith(RESERVED)]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function of command-line arguments that returns the options."""

    def parse(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["claims", *arguments])
        return claims._parse()[0]

    return parse


def make_results(accuracy: float, seconds: float = 10.0) -> dict[str, Any]:
    """Returns made-up results of a run, as `read_run` does."""
    both = {"train": {"accuracy": 0.9, "loss": 0.3}, "test": {"accuracy": accuracy, "loss": 0.5}}
    return {**both, "steps": 66, "seconds": seconds, "loss_by_epoch": [1.5, 2 - accuracy]}


def make_rows(cases: list[Case], seeds: int = 3) -> list[dict[str, Any]]:
    return [
        make_row(case, [make_results(0.6 + 0.04 * i + 0.05 * seed, 9.0 + seed) for seed in range(seeds)])
        for i, case in enumerate(cases)
    ]


def make_config(case: Case, seed: int = 0) -> Any:
    config = case.run(seed, "runs", ["--config.data.name=rendered"]).config()
    rules.check(config)
    return config


def test_runs_are_trained_once_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, report_file = tmp_path / "runs", tmp_path / "claims.json"
    flags = ["--groups=batch", "--batches=32", "--width=4", "--batch_epochs=2", "--seeds=1"]
    flags += [f"--workdir={workdir}", f"--json={report_file}", f"--plots={tmp_path / 'docs'}"]
    monkeypatch.setattr(sys, "argv", ["claims", *flags, *SHARED, "--config.data.train_size=32"])
    assert claims.main() == 0, capsys.readouterr().err
    rows = json.loads(report_file.read_text())["groups"]["batch"]
    assert [row["what"] for row in rows] == [{"batch": 32, "rule": "both", "rate": 0.001}]
    folder = workdir / "batch_32_rate_0.001_2_epochs" / "seed_0"
    summary, results = json.loads((folder / "summary.json").read_text()), rows[0]["seeds"]["0"]
    assert (results["train"], results["test"]) == (summary["train"], summary["test"])
    assert results["seconds"] == pytest.approx(2 * 32 / summary["images_per_second"])
    lines = read_metrics(folder)
    assert results["loss_by_epoch"] == pytest.approx([line["loss"] for line in lines])
    assert {line["split"] for line in lines} == {"train"}
    assert len([path for path in (folder / "checkpoints").iterdir() if path.is_dir()]) == 1
    assert not (folder / "report").exists()
    assert (tmp_path / "claims.md").read_text() in capsys.readouterr().out + "\n"
    assert (tmp_path / "docs" / "claims_batch.png").exists()

    # Again: nothing runs, the report is the same.
    monkeypatch.setattr("benchmarks.runs._start", None)
    assert claims.main() == 0
    assert json.loads(report_file.read_text())["groups"]["batch"] == rows


def test_plain_and_residual_networks_differ_in_their_shortcuts_alone(parse: Callable[..., Any]) -> None:
    cases = make_cases(parse("--groups=plain", "--depths=18,34"), [])["plain"]
    configs = {(case.what["network"], case.what["depth"]): make_config(case) for case in cases}
    assert {(config.model.residual, config.model.depth) for config in configs.values()} == {
        (residual, depth) for residual in (False, True) for depth in (18, 34)
    }
    for depth in (18, 34):
        assert differing_fields(configs["plain", depth], configs["residual", depth]) == {"model.residual"}
    assert differing_fields(configs["plain", 18], configs["plain", 34]) == {"model.depth"}


def test_no_block_of_a_plain_network_starts_as_zero(parse: Callable[..., Any]) -> None:
    case, _ = make_cases(parse("--groups=plain", "--depths=18"), [])["plain"]
    config = make_config(case)
    config.model.width = 4
    params = make_network(config, 6).init(0).params
    for stage in (1, 2, 3, 4):
        for block in params[f"stage{stage}"].values():
            assert np.all(np.asarray(block["norm2"]["scale"]) == 1)


def test_batch_sizes_have_one_learning_rate_or_one_in_proportion(parse: Callable[..., Any]) -> None:
    cases = make_cases(parse("--groups=batch", "--batches=8,32,256"), [])["batch"]
    configs = [make_config(case) for case in cases]
    assert [
        (case.what["rule"], config.batch_size, config.optimizer.learning_rate)
        for case, config in zip(cases, configs, strict=True)
    ] == [
        ("same", 8, 1e-3),
        ("scaled", 8, 2.5e-4),
        ("both", 32, 1e-3),
        ("same", 256, 1e-3),
        ("scaled", 256, 8e-3),
    ]
    for config in configs:
        assert differing_fields(config, configs[0]) <= {"batch_size", "optimizer.learning_rate"}
        assert config.optimizer.warmup_epochs < config.num_epochs / 2


def test_every_run_has_its_seed_and_its_folder(parse: Callable[..., Any]) -> None:
    options = parse()
    cases = make_cases(options, [])
    all_cases = [case for group_cases in cases.values() for case in group_cases]
    runs = [case.run(seed, "W", []) for case in all_cases for seed in range(options.seeds)]
    assert len(runs) == len({run.workdir for run in runs}) == 3 * (1 + 6 + 11)
    assert all(run.test == "last" for run in runs)
    keras = [make_config(cases["keras"][0], seed) for seed in range(2)]
    assert differing_fields(*keras) == {"seed"}
    assert (keras[0].optimizer.l2_stem_and_head, keras[0].ema_decay) == (0.01, 0.0)
    longer = make_cases(parse("--batch_epochs=7"), [])["batch"][0]
    assert longer.name != cases["batch"][0].name  # A finished schedule cannot be continued as a longer one.


@pytest.mark.parametrize(
    ("flags", "shared", "message"),
    [
        (["--groups=keras,wide"], [], "--groups=wide: no such group; expected some of keras, plain, batch"),
        (
            ["--groups=plain"],
            ["--config.model.residual=True"],
            "^config.model.residual=True: the benchmark sets this",
        ),
        (["--groups=keras"], ["--config.seed=7"], "^config.seed=7: the benchmark sets this"),
    ],
)
def test_invalid_groups_and_settings_are_refused(
    parse: Callable[..., Any], flags: list[str], shared: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_cases(parse(*flags), shared)


def test_losses_are_means_over_the_steps_of_an_epoch() -> None:
    lines = [
        {"step": 3, "split": "train", "loss": 1.0},
        {"step": 4, "split": "train", "loss": 3.0},
        {"step": 4, "split": "val", "loss": 9.0},
        {"step": 7, "split": "train", "loss": 0.5},
        {"step": 8, "split": "train", "loss": 0.1},
    ]
    assert loss_by_epoch(lines, steps=8, epochs=2) == pytest.approx([1.5, 0.4])


def test_keras_table_shows_where_the_published_accuracy_lies(parse: Callable[..., Any]) -> None:
    (case,) = make_cases(parse("--groups=keras"), [])["keras"]
    # 104 of 120 images is what was published as 0.866: not below it.
    row = make_row(case, [make_results(accuracy) for accuracy in (0.8, 104 / 120, 0.9)])
    assert (row["published"], row["share_below_published"]) == (PUBLISHED, pytest.approx(1 / 3))
    assert row["std"]["test"]["accuracy"] == pytest.approx(np.std([0.8, 104 / 120, 0.9], ddof=1))
    lines = format_group("keras", [row]).splitlines()
    assert lines[2].startswith("3 seeds, configs/signs_keras.py with `")
    assert "num_epochs=10" in lines[2]
    assert "| 0.856 ± 0.051   | 0.800 to 0.900 |" in lines[6]
    assert lines[-1] == "Below the published 0.866: 1 of 3 seeds"


def test_the_table_has_a_row_for_each_case(parse: Callable[..., Any]) -> None:
    cases = make_cases(parse("--batches=8,32"), [])
    _, _, shared, _, *table = format_group("batch", make_rows(cases["batch"])).splitlines()
    assert "model.width=32" in shared
    assert "learning_rate" not in shared
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0][:4] == ["batch", "rule", "rate", "steps"]
    assert [row[:4] for row in cells[2:]] == [
        ["8", "same", "0.001", "66"],
        ["8", "scaled", "0.00025", "66"],
        ["32", "both", "0.001", "66"],
    ]
    assert cells[3][4:] == ["0.900 ± 0.000", "0.300 ± 0.000", "0.690 ± 0.050", "0.640 to 0.740", "10 ± 1"]
    assert "0.650" in format_group("plain", make_rows(cases["plain"], seeds=2))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_picture_of_each_group(parse: Callable[..., Any], tmp_path: Path, seeds: int) -> None:
    cases = make_cases(parse(), [])
    report = {"groups": {group: make_rows(group_cases, seeds) for group, group_cases in cases.items()}}
    claims_plot.plot(json.loads(json.dumps(report)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"claims_{group}.png" for group in cases}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.width > image.height > 400
