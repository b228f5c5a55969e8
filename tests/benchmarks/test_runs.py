"""The runs of benchmarks: their locks, and data that they cannot be measured on."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import train
from benchmarks import claims, few_images, runs, time_to_accuracy, transfer
from benchmarks.runs import Run
from resnet.errors import UserError
from tests.pictures import random_pictures, sort_into
from tests.runs import small_config
from workdir.lock import locked


def test_a_workdir_in_which_another_process_trains_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train_and_evaluate", lambda *_: {})
    monkeypatch.setattr(runs.environment, "prepare", lambda *_, **options: None)
    run, cores = Run(str(tmp_path), ["--config=configs/default.py"]), [*os.sched_getaffinity(0)]
    assert runs._train(run, cores) == 0
    assert transfer._train(small_config(), tmp_path) == {}
    with locked(tmp_path):
        for start in (lambda: runs._train(run, cores), lambda: transfer._train(small_config(), tmp_path)):
            with pytest.raises(UserError, match=f"process {os.getpid()} .* trains there"):
                start()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures of two classes, none of them for testing."""
    return sort_into(tmp_path / "photos", random_pictures(4), ["train/cat", "train/dog"] * 2)


@pytest.mark.parametrize(
    ("benchmark", "flags"),
    [
        (time_to_accuracy, ["--config.data.dir={photos}"]),
        (claims, ["--groups=batch", "--config.data.name=folder", "--config.data.dir={photos}"]),
        (few_images, ["--dir={photos}"]),
    ],
)
def test_data_without_test_images_are_refused_before_anything_is_trained(
    benchmark: ModuleType,
    flags: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "train_all", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = [f"--workdir={tmp_path / 'runs'}", f"--json={tmp_path / 'report.json'}"]
    arguments = [*folders, *(flag.format(photos=photos) for flag in flags)]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    assert benchmark.main() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert f"{photos}: has no test images" in error
    assert not (tmp_path / "runs").exists()
