"""The command line of features and of weights for other frameworks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
import settings
from configs import default
from resnet import Classifier, load_pretrained
from resnet.checkpoint import Checkpoints
from resnet.network import Network

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never trained."""
    workdir = tmp_path_factory.mktemp("weights") / "run"
    config = default.get_config()
    config.update(test_time_flip=True, temperature=0.5)
    config.ema_decay = 0.0
    config.compilation_cache = False
    config.model.update({"depth": 18, "width": 4, "convolution": "lax"})
    settings.save(config, CLASSES, workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, Network(config, 3).init(0)._asdict(), {}, None)
    return workdir


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eleven pictures, more than one batch, and a file that is none."""
    rng = np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(rng.integers(0, 256, (70, 70 + i, 3), np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "99.png").write_text("no picture")
    return tmp_path


def run(*arguments: object) -> int:
    return main.run(["main.py", *map(str, arguments)])


def test_features_of_a_folder(workdir: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--mode=features", f"--workdir={workdir}", "--layer=stage2", "--pool=none"]
    assert run(*flags, pictures) == 2
    output = capfd.readouterr()
    assert "99.png: is not an image" in output.err
    assert "(11 images)" in output.out
    classifier = Classifier.load(workdir)
    files = sorted(pictures.glob("[01]*.png"))
    expected = classifier.features(np.stack([classifier.prepare(file) for file in files]), "stage2", "none")
    with np.load(workdir / "features_stage2.npz") as archive:
        assert archive["paths"].tolist() == [str(file) for file in files]
        np.testing.assert_array_equal(archive["features"], expected)
    assert {path.name for path in workdir.iterdir()} >= {"config.json", "features_stage2.npz"}
    assert not list(workdir.glob("*.tmp"))


def test_features_of_an_unknown_layer(
    workdir: Path, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("--mode=features", f"--workdir={workdir}", "--layer=stage7", pictures) == 2
    assert "layer stage7: no such layer; expected one of stem," in capfd.readouterr().err
    assert run("--mode=features", f"--workdir={workdir}") == 2
    assert "--mode=features needs images" in capfd.readouterr().err


@pytest.mark.parametrize("format", main.EXPORT_FORMATS)
def test_export_is_read_again(format: str, workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--mode=export", f"--workdir={workdir}", f"--format={format}") == 0
    written, takes = capfd.readouterr().out.splitlines()
    path = written.removeprefix("written: ")
    shape = "[N, 64, 64, 3]" if format in ("keras", "safetensors") else "[N, 3, 64, 64]"
    assert takes.startswith(f"its input: float32 {shape}, RGB; ")
    assert takes.endswith("; as an image and as its mirror image, of whose logits the mean is taken")
    again, original = load_pretrained(path), Classifier.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    assert again.class_names == CLASSES
    np.testing.assert_allclose(again.probabilities(images), original.probabilities(images), atol=1e-6)
