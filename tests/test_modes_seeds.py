"""The command line on a run of several seeds: means with their spread, the ensemble, one seed alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

import main
from report import figures

SMALL = [
    "--config=configs/default.py",
    "--config.num_epochs=2",
    "--config.batch_size=12",
    "--config.model.depth=18",
    "--config.augment.rotation=0",
    "--config.augment.scale=0",
    "--config.augment.translation=0",
    "--config.model.width=4",
    "--config.model.convolution=lax",
    "--config.compilation_cache=false",
]
Run = Callable[..., CompletedProcess]


pytestmark = pytest.mark.usefixtures("restored_environment")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs main.py with these arguments, in this process."""

    def run(*arguments: object) -> CompletedProcess:
        capfd.readouterr()
        # ml_collections runs a second config file on top of the first one's names.
        sys.modules.pop("config_config", None)
        code = main.run(["main.py", *map(str, arguments)])
        return CompletedProcess(arguments, code, *capfd.readouterr())

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path) -> Path:
    """A short run of two seeds; tests leave it as it is."""
    workdir = tmp_path_factory.mktemp("modes_seeds") / "run"
    flags = [f"--workdir={workdir}", f"--config.data.dir={shared_signs_dir}", "--config.seeds=7,2"]
    sys.modules.pop("config_config", None)
    assert main.run(["main.py", *SMALL, *flags]) == 0
    return workdir


def test_training_prints_means_and_writes_one_report(run: Run, workdir: Path, shared_signs_dir: Path) -> None:
    flags = [f"--workdir={workdir}", f"--config.data.dir={shared_signs_dir}", "--config.seeds=7,2"]
    result = run(*SMALL, *flags)
    assert (result.returncode, result.stderr) == (0, "")
    summary = json.loads((workdir / "summary.json").read_text())
    mean, std = (summary[kind]["ema"]["test"] for kind in ("mean", "std"))
    expected = f"test accuracy {mean['accuracy']:.4f} ± {std['accuracy']:.4f} loss {mean['loss']:.4f}"
    assert expected in result.stdout
    assert list(summary["seeds"]) == ["7", "2"]
    assert "writing the report" not in result.stdout  # the first start has written it
    page = (workdir / "report" / "index.html").read_text()
    for part in ("<h2>Seeds</h2>", "mean ± std", "accuracy, 2 seeds", "accuracy, ensemble", "seed 7"):
        assert part in page


def test_eval_tells_each_seed_the_mean_and_the_ensemble(run: Run, workdir: Path) -> None:
    result = run("--mode=eval", f"--workdir={workdir}")
    assert (result.returncode, result.stderr) == (0, "")
    stored = json.loads((workdir / "eval_test.json").read_text())
    rows = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    for seed in ("7", "2"):
        alone = run("--mode=eval", f"--workdir={workdir / f'seed_{seed}'}", "--json")
        assert json.loads(alone.stdout)["accuracy"] == stored["seeds"][seed]["accuracy"]
        assert f"{stored['seeds'][seed]['loss']:.4f}" in rows[seed]
    mean, std = stored["mean"]["loss"], stored["std"]["loss"]
    assert mean == pytest.approx(np.mean([stored["seeds"][seed]["loss"] for seed in "72"]))
    assert f"{mean:.4f} ± {std:.4f}" in rows["mean ± std"]
    assert f"{stored['ensemble']['loss']:.4f}" in rows["ensemble"]
    assert "ensemble: accuracy" in result.stdout
    result = run("--mode=eval", f"--workdir={workdir}", "--json")
    assert json.loads(result.stdout) == stored


def test_predict_answers_as_the_ensemble(run: Run, workdir: Path, picture: Path) -> None:
    shares = []
    for folder in (workdir, workdir / "seed_7", workdir / "seed_2"):
        result = run("--mode=predict", f"--workdir={folder}", "--json", picture)
        assert (result.returncode, result.stderr) == (0, "")
        shares.append(list(json.loads(result.stdout)["probabilities"].values()))
    np.testing.assert_allclose(shares[0], np.mean(shares[1:], axis=0), rtol=1e-4)


def test_what_is_of_one_network_asks_for_one_seed(run: Run, workdir: Path, picture: Path) -> None:
    for flags, parts in (
        (["--mode=export"], ("holds 2 seeds", str(workdir / "seed_7"))),
        (["--mode=features", picture], ("has 2 seeds", "seed_0")),
        ([*SMALL, f"--config.init_from={workdir}"], ("neither a run nor", "seed_0")),
    ):
        folder = f"{workdir}_2" if SMALL[0] in flags else workdir
        result = run(f"--workdir={folder}", *flags)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert all(part in result.stderr for part in parts), result.stderr
    assert not (workdir / "export").exists()


def test_bands_are_one_deviation_over_the_seeds_that_reached_an_epoch() -> None:
    def history(losses: list[float]) -> list[dict]:
        return [{"step": i, "epoch": i / 2, "split": "train", "loss": loss, "accuracy": 0.5}
                for i, loss in enumerate(losses, start=1)]  # fmt: skip

    histories = [history([3.0, 1.0, 1.0, 1.0]), history([5.0, 3.0, 2.0, 2.0, 9.0])]
    axes = figures.learning_curves(histories, {}).axes[0]
    (curve,) = axes.lines
    np.testing.assert_allclose(curve.get_xydata(), [[1, 3.0], [2, 1.5]])
    (band,) = axes.collections
    heights = {tuple(np.round(xy, 6)) for xy in band.get_paths()[0].vertices}
    deviations = np.array([np.sqrt(2), np.sqrt(0.5)])
    for x, mean, deviation in zip((1, 2), (3.0, 1.5), deviations, strict=True):
        for y in (mean - deviation, mean + deviation):
            assert (x, round(y, 6)) in heights
    alone = figures.learning_curves(histories[:1], {}).axes[0]
    assert not alone.collections
    assert len(alone.lines) == 2  # each value, and the means


def test_curves_of_validation_tell_raw_weights_from_their_average() -> None:
    def labels(*splits: str) -> list[str]:
        history = [{"step": 1, "epoch": 1, "split": split, "loss": 1.0, "accuracy": 0.5} for split in splits]
        return [line.get_label() for line in figures.learning_curves([history], {}).axes[0].lines]

    assert labels("train", "val", "val_raw") == ["train", "val, moving average", "val, raw weights"]
    assert labels("train", "val") == ["train", "val"]
