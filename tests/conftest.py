"""Fixtures that several rooms' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lets the tests, and the programs that they start, share what JAX has compiled."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all workers have in common
    folder = str(folder / "compilation_cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder


def _write_split(path: Path, prefix: str, size: int, seed: int) -> None:
    """Noise `[size, 64, 64, 3]` with a bright block whose place tells the class."""
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
def shared_signs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files as `signs_dir`, for tests that leave them as they are."""
    return _write_signs(tmp_path_factory.mktemp("shared") / "signs")


@pytest.fixture(scope="module")
def restored_environment() -> Iterator[None]:
    """Undoes what the program puts into the environment for JAX."""
    saved = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(saved)
