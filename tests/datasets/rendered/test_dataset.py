"""A data set of rendered hands: the same images however many are asked for and whoever draws them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.rendered import cache, dataset
from datasets.rendered.render import render, render_with_matte
from tests.command_line import ROOT
from tests.datasets.errors import error_line


def test_load_returns_the_sizes_asked_for_and_every_class_equally_often():
    data = dataset.load(seed=1, train_size=12, test_size=6, image_size=48)
    assert data.train.images.shape == (12, 48, 48, 3)
    assert data.test.images.shape == (6, 48, 48, 3)
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        counts = np.bincount(split.labels, minlength=6)
        assert counts.min() == counts.max() == len(split.labels) // 6
    assert data.class_names == ("0", "1", "2", "3", "4", "5")


def test_an_image_does_not_depend_on_how_many_are_asked_for():
    few = dataset.load(seed=3, train_size=4, test_size=1)
    many = dataset.load(seed=3, train_size=9, test_size=5)
    np.testing.assert_array_equal(few.train.images, many.train.images[:4])
    np.testing.assert_array_equal(few.test.images, many.test.images[:1])
    np.testing.assert_array_equal(many.train.images[8], render(8 % 6, 8, seed=3))


def test_a_matte_belongs_to_its_image(monkeypatch):
    monkeypatch.setattr(dataset, "IMAGES_WORTH_A_PROCESS", 5)
    split = dataset.load(seed=2, train_size=13, test_size=1, workers=2).train
    for i in (0, 12):
        image, matte = render_with_matte(i % 6, i, seed=2)
        np.testing.assert_array_equal(split.images[i], image)
        np.testing.assert_array_equal(split.mattes[i], matte)


def test_worker_processes_draw_the_same_images(monkeypatch):
    monkeypatch.setattr(dataset, "IMAGES_WORTH_A_PROCESS", 5)
    alone = dataset.load(seed=2, train_size=13, test_size=1, workers=1)
    shared = dataset.load(seed=2, train_size=13, test_size=1, workers=2)
    np.testing.assert_array_equal(alone.train.images, shared.train.images)
    assert shared.train.images.flags.writeable


def test_a_failing_worker_process_is_an_error(monkeypatch):
    monkeypatch.setattr(dataset, "IMAGES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="exit code 1"):
        dataset.load(train_size=4, test_size=1, workers=2)


def is_running(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to list processes")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_asked_for_images(tmp_path, signum):
    code = (
        "from resnet.signals import exit_at_signals; exit_at_signals()\n"
        "from datasets.rendered import dataset\n"
        "dataset.load(seed=0, train_size=20_000, test_size=1, image_size=64, variety=1.0, workers=2)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(workers := children.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    process.wait(30)
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_worker_processes_draw_the_same_images_of_any_variety(monkeypatch):
    monkeypatch.setattr(dataset, "IMAGES_WORTH_A_PROCESS", 3)
    split = dataset.load(seed=2, train_size=7, test_size=1, variety=0.3, workers=2).train
    for i in range(7):
        np.testing.assert_array_equal(split.images[i], render(i % 6, i, seed=2, variety=0.3))
    assert not np.array_equal(split.images[6], render(0, 6, seed=2, variety=0.8))


def test_images_of_another_variety_are_not_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "MIN_IMAGES", 1)
    for variety in (0.0, 1.0, 0.0):
        images = dataset.load(train_size=6, test_size=1, variety=variety).train.images
        np.testing.assert_array_equal(images[5], render(5, 5, seed=0, variety=variety))


def test_every_image_is_another_hand():
    data = [dataset.load(seed=seed, train_size=8, test_size=8) for seed in (0, 1)]
    images = np.concatenate([split for d in data for split in (d.train.images, d.test.images)])
    pixels = images.reshape(len(images), -1).astype(float)
    distance = np.abs(pixels[:, None] - pixels).mean(-1)
    assert distance[~np.eye(len(images), dtype=bool)].min() > 4  # grey levels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_size": -1}, "config.data.train_size=-1: expected a whole number, 1 or more"),
        ({"test_size": 0}, "config.data.test_size=0: expected"),
        ({"train_size": 2.5}, "config.data.train_size=2.5: expected"),
        ({"seed": -3}, "config.data.seed=-3: expected"),
        ({"seed": "x"}, "config.data.seed=x: expected"),
        ({"variety": 1.5}, "config.data.variety=1.5: expected a number from 0 to 1"),
        ({"variety": -0.1}, "config.data.variety=-0.1: expected"),
        ({"variety": float("nan")}, "config.data.variety=nan: expected"),
        ({"variety": "high"}, "config.data.variety=high: expected"),
        ({"variety": True}, "config.data.variety=True: expected"),
        ({"image_size": 4}, "config.data.image_size=4: expected a whole number from 16 to 512"),
    ],
)
def test_a_bad_number_is_named_in_one_line(arguments, message):
    assert error_line(lambda: dataset.load(**arguments)).startswith(message)
