"""`--mode=features`: the features of pictures in a file."""

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modes.features import FeaturesWriter
from resnet import Classifier, load_pretrained
from resnet.errors import UserError
from tests.command_line import Run, assert_refused
from tests.pictures import random_pictures, sort_into
from tests.runs import save_untrained_run, small_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never trained."""
    config = small_config(compilation_cache=False)
    return save_untrained_run(tmp_path_factory.mktemp("features") / "run", config, ("a", "b", "c"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eleven pictures, more than one batch, and a file that is none."""
    rng = np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(rng.integers(0, 256, (70, 70 + i, 3), np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "99.png").write_text("no picture")
    return tmp_path


def test_features_of_a_folder(run: Run, workdir: Path, pictures: Path) -> None:
    flags = ["--mode=features", f"--workdir={workdir}", "--layer=stage2", "--pool=none"]
    result = run(*flags, pictures)
    assert result.code == 2
    assert "99.png: is not an image" in result.err
    assert "(11 images)" in result.out
    classifier = Classifier.load(workdir)
    files = sorted(pictures.glob("[01]*.png"))
    expected = classifier.features(np.stack([classifier.prepare(file) for file in files]), "stage2", "none")
    with np.load(workdir / "features_stage2_none.npz") as archive:
        assert archive["paths"].tolist() == [str(file) for file in files]
        np.testing.assert_array_equal(archive["features"], expected)
    run(*flags[:-1], pictures)  # The mean, which is the default, does not take the place of the others.
    assert {"features_stage2.npz", "features_stage2_none.npz"} <= {path.name for path in workdir.iterdir()}
    assert not list(workdir.glob("*.tmp"))


def test_features_of_an_unknown_layer(run: Run, workdir: Path, pictures: Path) -> None:
    result = run("--mode=features", f"--workdir={workdir}", "--layer=stage7", pictures)
    assert_refused(result, "layer stage7: no such layer; expected one of stem,")
    assert_refused(run("--mode=features", f"--workdir={workdir}"), "--mode=features needs images")


def test_features_of_weights(run: Run, weights_file: Path, tmp_path: Path) -> None:
    folder = sort_into(tmp_path, random_pictures(2), ["photos"] * 2) / "photos"
    flags = ["--mode=features", f"--weights={weights_file}", "--layer=stage1"]
    assert run(*flags, f"--workdir={tmp_path / 'out'}", folder).code == 0
    classifier = load_pretrained(weights_file)
    prepared = np.stack([classifier.prepare(file) for file in sorted(folder.iterdir())])
    with np.load(tmp_path / "out" / "features_stage1.npz") as archive:
        np.testing.assert_array_equal(archive["features"], classifier.features(prepared, "stage1"))
    assert_refused(
        run(*flags, folder), "--workdir is missing: name the folder that --mode=features writes to"
    )


def test_features_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with FeaturesWriter(tmp_path / "features.npz") as writer:
            for _ in range(10):
                writer.write(["a.png"], np.zeros((1, 10_000)))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"features\.npz: cannot be written \(File too large\); free"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
