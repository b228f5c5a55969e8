"""`--mode=probe`: what it prints and writes, for a run and for other weights, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datasets
from resnet import Classifier
from tests.command_line import ROOT, Run, assert_refused, assert_succeeded, flags_of
from tests.runs import DIGITS, save_untrained_run, small_config
from workdir import settings


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path) -> Path:
    """A run that never trained."""
    fields = {"data.dir": str(shared_signs_dir), "test_time_flip": True, "compilation_cache": False}
    return save_untrained_run(tmp_path_factory.mktemp("probe") / "run", small_config(**fields), DIGITS)


def test_probe_of_a_run(run: Run, workdir: Path) -> None:
    output = run("--mode=probe", f"--workdir={workdir}")
    assert output.code == 0
    assert "accuracy on 12 test images, from features of 60 training images" in output.out
    probe = json.loads((workdir / "probe.json").read_text())
    assert [row["layer"] for row in probe["layers"]] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert [row["channels"] for row in probe["layers"]] == [4, 4, 8, 16, 32]
    assert (probe["step"], probe["weights"]) == (0, "raw")
    for row in probe["layers"]:
        cells = [row["layer"], str(row["channels"]), f"{row['knn']:.4f}", f"{row['linear']:.4f}"]
        assert cells in [line.split()[:4] for line in output.out.splitlines()]
    test = datasets.load(settings.load(workdir)[0].data).test
    probabilities = Classifier.load(workdir).probabilities(test.images)
    assert probe["network"] == np.mean(probabilities.argmax(-1) == test.labels)
    with Image.open(workdir / "probe.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 300


def test_probe_of_other_weights_equals_the_probe_of_their_run(
    run: Run, workdir: Path, tmp_path: Path, shared_signs_dir: Path
) -> None:
    assert_succeeded(run("--mode=probe", f"--workdir={workdir}"))
    fields = {"init_from": workdir, "data.dir": shared_signs_dir, "model.convolution": "lax"}
    config = f"--config={ROOT / 'configs' / 'finetune.py'}"
    assert_succeeded(run("--mode=probe", config, *flags_of(fields), f"--workdir={tmp_path}"))
    own, other = (json.loads((folder / "probe.json").read_text()) for folder in (workdir, tmp_path))
    assert other["layers"] == own["layers"]
    assert other["weights"] == str(workdir)
    assert "network" not in other


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--config=configs/signs.py"], "config.init_from='': with --config, --mode=probe takes"),
        (["--config=configs/signs.py", "--config.init_from=nowhere"], "nowhere: no such file"),
        ([], "no trained run here"),
        (
            ["--config=configs/signs.py", "--config.init_from=nowhere", "--raw"],
            "--raw: a file has one set of",
        ),
        (["--config=configs/signs.py", "--config.init_from=nowhere", "--checkpoint=last"], "--checkpoint: a"),
        (["hand.jpg"], "hand.jpg: not a flag"),
    ],
)
def test_what_probe_refuses(
    run: Run, flags: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert_refused(run("--mode=probe", f"--workdir={tmp_path / 'run'}", *flags), line)
    assert not (tmp_path / "run").exists()
