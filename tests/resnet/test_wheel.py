"""The wheel holds the library and nothing else, and works where nothing else of the project is."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import resnet
from configs import default
from resnet import Classifier
from resnet.checkpoint import Checkpoints
from tests.resnet.formats.test_reading import network_arrays
from tests.resnet.networks import make_network
from tests.weights import in_torchvision
from workdir import settings

ROOT = Path(__file__).parent.parent.parent
CLASSES = ("fist", "palm", "point")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "resnet", source / "resnet", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "train.py").write_text("raise ImportError('not for the wheel')\n")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, f"--wheel-dir={folder}"], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def answer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program prints that uses the wheel, in a folder outside of the checkout."""
    folder = tmp_path_factory.mktemp("user")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    save_run(folder / "run")
    save_file(in_torchvision(network_arrays()), folder / "weights.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.jpg")
    program = shutil.copy(ROOT / "tests" / "resnet" / "uses_the_wheel.py", folder)
    arguments = [folder / "run", folder / "weights.safetensors", folder / "picture.jpg", folder / "export"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, program, *arguments],
        cwd=folder,
        env=environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"folder": str(folder)}


def save_run(workdir: Path) -> None:
    config = default.get_config()
    config.model.update({"depth": 18, "width": 4, "convolution": "lax"})
    config.ema_decay = 0.0
    settings.save(config, CLASSES, workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, make_network().init(0)._asdict(), {}, None)


def test_wheel_holds_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    version = resnet.__version__
    assert {name.partition("/")[0] for name in names} == {"resnet", f"resnet_signs-{version}.dist-info"}
    sources = (file for file in (ROOT / "resnet").rglob("*") if file.suffix in (".py", ".txt"))
    expected = {str(file.relative_to(ROOT)) for file in sources}
    assert {name for name in names if name.startswith("resnet/")} == expected


def test_installed_library_answers_as_the_checkout_does(answer: dict[str, Any]) -> None:
    folder = Path(answer["folder"])
    assert answer["file"] == str(folder / "site" / "resnet" / "__init__.py")
    assert answer["version"] == resnet.__version__
    [expected] = Classifier.load(folder / "run").predict([folder / "picture.jpg"])
    assert answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer["features"] == [1, 16]
    assert answer["foreign"] in ("0", "1", "2")
    assert answer["refusal"].endswith("picture.jpg.missing: no such file; check the path")
    for path in answer["written"].values():
        assert Path(path).exists()


def test_installed_library_needs_no_package_of_the_research_code(answer: dict[str, Any]) -> None:
    packages = {name.partition(".")[0] for name in answer["modules"]}
    assert not packages & {"ml_collections", "tabulate", "matplotlib", "tensorboardX", "configs", "train"}
