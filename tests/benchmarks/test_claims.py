"""Which runs check the claims, on equal terms, and what is made of them: tables, report, pictures."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import settings
from benchmarks import claims, claims_plot
from benchmarks.claims import PUBLISHED, Case, cases_of, format_group, loss_by_epoch, row_of
from errors import UserError
from metrics import read_metrics
from resnet.network import Network
from tests.benchmarks.test_accuracy import SMALL

TAKEN = ("num_epochs", "batch_size", "model.depth", "model.width", "data.train_size")
SHARED = [flag for flag in SMALL if not flag[len("--config.") :].startswith(TAKEN)]


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def options_of(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["claims", *arguments])
        return claims._parse()[0]

    return options_of


def measured(accuracy: float, seconds: float = 10.0) -> dict[str, Any]:
    """What `read_run` returns, by hand."""
    both = {"train": {"accuracy": 0.9, "loss": 0.3}, "test": {"accuracy": accuracy, "loss": 0.5}}
    return {**both, "steps": 66, "seconds": seconds, "loss_by_epoch": [1.5, 2 - accuracy]}


def rows_of(cases: list[Case], seeds: int = 3) -> list[dict[str, Any]]:
    return [
        row_of(case, [measured(0.6 + 0.04 * i + 0.05 * seed, 9.0 + seed) for seed in range(seeds)])
        for i, case in enumerate(cases)
    ]


def config_of(case: Case, seed: int = 0) -> Any:
    config = case.run(seed, "runs", ["--config.data.name=rendered"]).config()
    settings.check(config)
    return config


def differing(a: Any, b: Any) -> set[str]:
    fields = dict(settings.flatten(b))
    return {name for name, value in settings.flatten(a) if value != fields[name]}


def test_runs_are_trained_once_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, report_file = tmp_path / "runs", tmp_path / "claims.json"
    flags = ["--groups=batch", "--batches=32", "--width=4", "--batch_epochs=2", "--seeds=1"]

    monkeypatch.setattr(
        sys, "argv", ["claims", *flags, f"--workdir={workdir}", f"--json={report_file}",
                      f"--plots={tmp_path / 'docs'}", *SHARED, "--config.data.train_size=32"]
    )  # fmt: skip
    assert claims.main() == 0, capsys.readouterr().err
    rows = json.loads(report_file.read_text())["groups"]["batch"]
    assert [row["what"] for row in rows] == [{"batch": 32, "rule": "both", "rate": 0.001}]
    folder = workdir / "batch_32_rate_0.001_2_epochs" / "seed_0"
    summary, found = json.loads((folder / "summary.json").read_text()), rows[0]["seeds"]["0"]
    assert (found["train"], found["test"]) == (summary["train"], summary["test"])
    assert found["seconds"] == pytest.approx(2 * 32 / summary["images_per_second"])
    lines = read_metrics(folder)
    assert found["loss_by_epoch"] == pytest.approx([line["loss"] for line in lines])
    assert {line["split"] for line in lines} == {"train"}
    assert len([path for path in (folder / "checkpoints").iterdir() if path.is_dir()]) == 1
    assert not (folder / "report").exists()
    assert (tmp_path / "claims.md").read_text() in capsys.readouterr().out + "\n"
    assert (tmp_path / "docs" / "claims_batch.png").exists()

    # Again: nothing runs, the report is the same.
    monkeypatch.setattr("benchmarks.runs._start", None)
    assert claims.main() == 0
    assert json.loads(report_file.read_text())["groups"]["batch"] == rows


def test_plain_and_residual_networks_differ_in_their_shortcuts_alone(options_of: Callable[..., Any]) -> None:
    cases = cases_of(options_of("--groups=plain", "--depths=18,34"), [])["plain"]
    configs = {(case.what["network"], case.what["depth"]): config_of(case) for case in cases}
    assert {(config.model.residual, config.model.depth) for config in configs.values()} == {
        (residual, depth) for residual in (False, True) for depth in (18, 34)
    }
    for depth in (18, 34):
        assert differing(configs["plain", depth], configs["residual", depth]) == {"model.residual"}
    assert differing(configs["plain", 18], configs["plain", 34]) == {"model.depth"}


def test_every_block_of_a_plain_network_passes_something_on(options_of: Callable[..., Any]) -> None:
    case, _ = cases_of(options_of("--groups=plain", "--depths=18"), [])["plain"]
    config = config_of(case)
    config.model.width = 4
    params = Network(config, 6).init(0).params
    for stage in (1, 2, 3, 4):
        for block in params[f"stage{stage}"].values():
            assert np.all(np.asarray(block["norm2"]["scale"]) == 1)


def test_batch_sizes_have_one_learning_rate_or_one_in_proportion(options_of: Callable[..., Any]) -> None:
    cases = cases_of(options_of("--groups=batch", "--batches=8,32,256"), [])["batch"]
    configs = [config_of(case) for case in cases]
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
        assert differing(config, configs[0]) <= {"batch_size", "optimizer.learning_rate"}
        assert config.optimizer.warmup_epochs < config.num_epochs / 2


def test_every_run_has_its_seed_and_its_folder(options_of: Callable[..., Any]) -> None:
    options = options_of()
    cases = cases_of(options, [])
    runs = [case.run(seed, "W", []) for of in cases.values() for case in of for seed in range(options.seeds)]
    assert len(runs) == len({run.workdir for run in runs}) == 3 * (1 + 6 + 11)
    assert all(run.test == "last" for run in runs)
    keras = [config_of(cases["keras"][0], seed) for seed in range(2)]
    assert differing(*keras) == {"seed"}
    assert (keras[0].optimizer.l2_stem_and_head, keras[0].ema_decay) == (0.01, 0.0)
    longer = cases_of(options_of("--batch_epochs=7"), [])["batch"][0]
    assert longer.name != cases["batch"][0].name  # A schedule that ended is not to go on as a longer one.


@pytest.mark.parametrize(
    ("flags", "shared", "message"),
    [
        (["--groups=keras,wide"], [], "found 'wide'; expected some of keras, plain, batch"),
        (["--groups=plain"], ["--config.model.residual=True"], "config.model.residual is what these runs"),
        (["--groups=keras"], ["--config.seed=7"], "config.seed is what these runs"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    options_of: Callable[..., Any], flags: list[str], shared: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        cases_of(options_of(*flags), shared)


def test_losses_are_means_over_the_steps_of_an_epoch() -> None:
    lines = [
        {"step": 3, "split": "train", "loss": 1.0},
        {"step": 4, "split": "train", "loss": 3.0},
        {"step": 4, "split": "val", "loss": 9.0},
        {"step": 7, "split": "train", "loss": 0.5},
        {"step": 8, "split": "train", "loss": 0.1},
    ]
    assert loss_by_epoch(lines, steps=8, epochs=2) == pytest.approx([1.5, 0.4])


def test_keras_table_tells_where_the_published_accuracy_falls(options_of: Callable[..., Any]) -> None:
    (case,) = cases_of(options_of("--groups=keras"), [])["keras"]
    # 104 of 120 images is what was published as 0.866: not below it.
    row = row_of(case, [measured(accuracy) for accuracy in (0.8, 104 / 120, 0.9)])
    assert (row["published"], row["share_below_published"]) == (PUBLISHED, pytest.approx(1 / 3))
    assert row["std"]["test"]["accuracy"] == pytest.approx(np.std([0.8, 104 / 120, 0.9], ddof=1))
    lines = format_group("keras", [row]).splitlines()
    assert lines[2].startswith("3 seeds, configs/signs_keras.py with `")
    assert "num_epochs=10" in lines[2]
    assert "| 0.856 ± 0.051   | 0.800 to 0.900 |" in lines[6]
    assert lines[-1] == "Below the published 0.866: 1 of 3 seeds"


def test_table_has_a_row_a_case(options_of: Callable[..., Any]) -> None:
    cases = cases_of(options_of("--batches=8,32"), [])
    _, _, shared, _, *table = format_group("batch", rows_of(cases["batch"])).splitlines()
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
    assert "0.650" in format_group("plain", rows_of(cases["plain"], seeds=2))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_picture_of_each_group(options_of: Callable[..., Any], tmp_path: Path, seeds: int) -> None:
    cases = cases_of(options_of(), [])
    report = {"groups": {group: rows_of(of, seeds) for group, of in cases.items()}}
    claims_plot.plot(json.loads(json.dumps(report)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"claims_{group}.png" for group in cases}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.width > image.height > 400
