"""Runs, weights and pictures that the tests of several modes share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from PIL import Image

from tests.command_line import SHORT_TRAINING, flags_of, run_main
from tests.runs import NO_RESAMPLING, save_untrained_run
from tests.weights import HAND_SHAPES, narrow_config, random_weights, save_in_torchvision


@pytest.fixture(scope="module")
def workdir(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with a validation split and a report, which modes may write into."""
    return Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("modes") / "run"))


@pytest.fixture
def copy(workdir: Path, tmp_path: Path) -> Path:
    """A copy of `workdir` that a test may change."""
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


@pytest.fixture(scope="session")
def training_of_seeds(shared_signs_dir: Path) -> list[str]:
    """The flags that train the seeds 7 and 2, without the workdir."""
    fields = {"data.dir": shared_signs_dir, "seeds": "7,2"}
    return [*SHORT_TRAINING, *flags_of(NO_RESAMPLING | fields)]


@pytest.fixture(scope="module")
def seeds_workdir(
    made_once: Callable[..., Path], training_of_seeds: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A short run of the seeds 7 and 2 with a report, which modes may write into."""

    def train(workdir: Path) -> None:
        assert run_main(*training_of_seeds, f"--workdir={workdir}") == 0

    finished = made_once("trained_seeds", train)
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("seeds") / "run"))


@pytest.fixture(scope="module")
def untrained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes that never trained, whose weights distinguish images."""
    workdir = tmp_path_factory.mktemp("untrained") / "run"
    return save_untrained_run(workdir, narrow_config(), HAND_SHAPES, random_weights(3))


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with the classes of ImageNet, as torchvision would save it."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    return save_in_torchvision(random_weights(1000), file)


@pytest.fixture
def pictures(tmp_path: Path, shared_signs_dir: Path) -> Path:
    """A folder of eleven pictures of various sizes: more than one batch."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with h5py.File(shared_signs_dir / "test_signs.h5") as file:
        for i, image in enumerate(file["test_set_x"][:11]):
            Image.fromarray(image).resize((64 + 3 * i, 90)).save(folder / f"{i:02d}.png")
    return folder
