"""Fixtures that the tests of several rooms share."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from tests.command_line import SHORT_TRAINING, Result, Run, run_main
from tests.runs import seeds_config
from train import train_and_evaluate

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import it by themselves


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all workers of pytest have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(shared_folder: Path) -> str:
    """Lets the tests, and the programs that they start, share what JAX has compiled."""
    folder = str(shared_folder / "compilation_cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder


@pytest.fixture(scope="session")
def made_once(shared_folder: Path) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder that is expensive to make once for all workers of pytest.

    It takes a name and a function that fills the folder of that path, and returns the path.
    """

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        folder, finished = shared_folder / name, shared_folder / f"{name}.finished"
        with (shared_folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                finished.touch()
        return folder

    return made_once


# SIGNS


def _write_split(path: Path, prefix: str, size: int, seed: int) -> None:
    """Writes noise [size, 64, 64, 3] with a bright block, whose place shows the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(size) % 6)
    images = rng.integers(40, 100, (size, 64, 64, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 3)
        image[8 + 32 * row : 24 + 32 * row, 2 + 21 * column : 20 + 21 * column] += 120
    with h5py.File(path, "w") as file:
        file[f"{prefix}_set_x"] = images
        file[f"{prefix}_set_y"] = labels.astype(np.int64)
        file["list_classes"] = np.arange(6, dtype=np.int64)


def _write_signs(folder: Path) -> Path:
    folder.mkdir()
    _write_split(folder / "train_signs.h5", "train", 60, seed=0)
    _write_split(folder / "test_signs.h5", "test", 12, seed=1)
    return folder


@pytest.fixture
def signs_dir(tmp_path: Path) -> Path:
    """A folder with a small pair of SIGNS-shaped files: 60 train and 12 test images, 6 classes."""
    return _write_signs(tmp_path / "signs")


@pytest.fixture(scope="session")
def shared_signs_dir(made_once: Callable[..., Path]) -> Path:
    """The same files as `signs_dir`, for tests that leave them as they are."""
    return made_once("signs", _write_signs)


# The command line


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs main.py with the arguments that it is called with, in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = run_main(*arguments)
        return Result(code, *capfd.readouterr())

    return run


# Trained runs


@pytest.fixture(scope="session")
def trained_run(made_once: Callable[..., Path], shared_signs_dir: Path) -> Path:
    """The workdir of a short run with a validation split and a report, the same for all workers.

    Tests that write into it take `workdir`.
    """
    flags = [f"--config.data.dir={shared_signs_dir}", "--config.data.val_fraction=0.2"]

    def train(workdir: Path) -> None:
        assert run_main(*SHORT_TRAINING, *flags, f"--workdir={workdir}") == 0

    return made_once("trained_run", train)


@pytest.fixture(scope="session")
def seeds_in_turn(made_once: Callable[..., Path], shared_signs_dir: Path) -> Path:
    """The workdir of a run of the seeds 4 and 1, one after the other; tests leave it as it is."""
    config = seeds_config(shared_signs_dir, seeds=(4, 1), seeds_together="no")
    return made_once("seeds_in_turn", lambda workdir: train_and_evaluate(config, workdir))
