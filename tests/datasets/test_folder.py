"""A user's own images: as splits, with warnings, and with near duplicates on one side."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from datasets import folder
from datasets.types import Dataset
from resnet.images import fit_square, read_image, read_square
from tests.datasets.errors import error_line
from tests.datasets.listings import BROKEN, MemorySource, listing_of, noisy, png

Load = Callable[..., Dataset]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads files by name, with fields of the config, and checks what is true of every data set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def load(files: dict[str, bytes | None], **fields: object) -> Dataset:
        monkeypatch.setattr(folder, "list_images", lambda path: listing_of(MemorySource(files)))
        dataset = folder.load(data_config(**fields))
        for split in (dataset.train, dataset.val, dataset.test):
            if split is not None:
                assert split.images.dtype == np.uint8
                assert split.labels.dtype == np.int32
                for file, label in zip(split.files, split.labels, strict=True):
                    assert f"{dataset.class_names[label]}/" in file
        return dataset

    return load


def data_config(**fields: object) -> ConfigDict:
    config = default.get_config().data
    config.update({"name": "folder", "dir": "/data/photos", "image_size": 8} | fields)
    return config


def photographs(*splits: str, count: int = 4) -> dict[str, bytes | None]:
    """Returns `count` pictures of each class in each split, in folders `SPLIT/CLASS`."""
    names = [f"{s}{c}/{i}.png" for s in splits for c in ("cat", "dog") for i in range(count)]
    return {name: png(noisy(i, 10 + i % 3, 11)) for i, name in enumerate(names)}


def assert_prepared(split, files, size: int, crop: float = 1.0, fit: str = "crop") -> None:
    """Checks that pixels are what a prediction makes of the same file."""
    for image, file in zip(split.images, split.files, strict=True):
        np.testing.assert_array_equal(image, read_square(io.BytesIO(files[file]), size, crop, fit))


def test_splits_are_used_as_they_are(load):
    files = photographs("train/", "val/", "test/")
    dataset = load(files, crop=0.9, fit="pad")
    for name in ("train", "val", "test"):
        split = getattr(dataset, name)
        assert split.files.tolist() == [file for file in files if file.startswith(name)]
        assert_prepared(split, files, 8, 0.9, "pad")
    assert dataset.class_names == ("cat", "dog")


def test_without_a_test_folder_there_is_no_test_split(load, capsys):
    dataset = load(photographs("train/", "val/"))
    assert dataset.test is None
    assert capsys.readouterr().err.splitlines()[-1] == (
        "photos: 16 images of 2 classes in a folder for each class: 8 train, 8 val; no test images, so"
        " validation is what is measured; passed over: 3 hidden"
    )
    assert load(photographs("train/", "test/")).val is None
    assert "measure" not in capsys.readouterr().err
    load(photographs(""))
    assert "none held out" in capsys.readouterr().err


def test_class_names_come_without_decoding(monkeypatch):
    source = MemorySource(photographs(""))
    monkeypatch.setattr(folder, "list_images", lambda path: listing_of(source))
    assert folder.class_names(data_config()) == ("cat", "dog")
    assert not source.reads


# Sizes


def test_training_images_are_stored_larger_than_those_to_measure_by(load):
    files = photographs("train/", "val/", "test/")
    dataset = load(files, store_size=10, crop=0.8)
    assert_prepared(dataset.train, files, 10)
    assert_prepared(dataset.val, files, 8, 0.8)
    assert_prepared(dataset.test, files, 8, 0.8)


def test_images_that_are_held_out_are_as_for_a_prediction_too(load):
    files = photographs("", count=20)
    dataset = load(files, store_size=10, crop=0.8, test_fraction=0.2, val_fraction=0.25)
    assert [len(s.labels) for s in (dataset.train, dataset.val, dataset.test)] == [24, 8, 8]
    assert_prepared(dataset.train, files, 10)
    assert_prepared(dataset.val, files, 8, 0.8)
    assert_prepared(dataset.test, files, 8, 0.8)


# Splits that are drawn


def names(*splits) -> list[str]:
    return sorted(file for split in splits for file in split.files)


def test_every_image_is_in_one_split_by_the_seed(load):
    files = photographs("", count=20)
    fields = {"test_fraction": 0.2, "folds": 4}
    folds = [load(files, fold=fold, **fields) for fold in range(4)]
    for dataset in folds:
        assert names(dataset.train, dataset.val, dataset.test) == sorted(files)
        assert names(dataset.test) == names(folds[0].test)
        assert np.bincount(dataset.test.labels).tolist() == [4, 4]
    assert names(*(dataset.val for dataset in folds)) == names(folds[0].train, folds[0].val)
    assert names(load(files, split_seed=1, **fields).test) != names(folds[0].test)


def test_near_duplicates_stay_on_one_side(load):
    files = photographs("", count=20)
    bursts = {}
    for name, content in files.items():
        pixels = read_image(io.BytesIO(content)).astype(int)
        for shot in range(3):
            bursts[name.replace(".png", f"-{shot}.png")] = png(
                (pixels + 4 * shot).clip(0, 255).astype(np.uint8)
            )
    for seed in range(3):
        dataset = load(bursts, test_fraction=0.3, val_fraction=0.3, split_seed=seed)
        sides = [
            {file.split("-")[0] for file in split.files}
            for split in (dataset.train, dataset.val, dataset.test)
        ]
        assert sum(map(len, sides)) == 40
        assert min(map(len, sides)) >= 5


def test_where_all_images_are_alike_only_equal_ones_stay_together(load, capsys):
    grey = np.full((9, 9, 3), 100, np.uint8)
    files = {
        f"{c}/{i}.png": png(grey + i // 2 + 10 * (c == "dog")) for c in ("cat", "dog") for i in range(20)
    }
    dataset = load(files, test_fraction=0.2)
    assert "warning: 40 of 40 images are near duplicates" in capsys.readouterr().err
    assert not {i.tobytes() for i in dataset.test.images} & {i.tobytes() for i in dataset.train.images}
    assert np.bincount(dataset.test.labels).tolist() == [4, 4]


def test_splits_that_the_data_bring_are_used_as_they_are(load):
    files = photographs("train/", "val/")
    dataset = load(files, test_fraction=0.3, val_fraction=0.3)
    assert dataset.test is None
    assert names(dataset.train, dataset.val) == sorted(files)
    assert names(dataset.val) == sorted(name for name in files if name.startswith("val/"))
    line = error_line(lambda: load(files, folds=4), "config.data.folds=4: ")
    assert "set it to 0" in line


def test_validation_images_are_drawn_from_training_where_only_test_has_a_folder(load):
    files = photographs("train/", "test/", count=10)
    dataset = load(files, test_fraction=0.3, val_fraction=0.3)
    assert names(dataset.test) == sorted(name for name in files if name.startswith("test/"))
    assert np.bincount(dataset.val.labels).tolist() == [3, 3]
    assert names(dataset.train, dataset.val, dataset.test) == sorted(files)


def test_shares_that_are_not_used_are_said(load, capsys):
    def line(*splits: str, **fields: float) -> str:
        load(photographs(*splits, count=10), **fields)
        return capsys.readouterr().err.splitlines()[-1]

    shares = {"val_fraction": 0.3, "test_fraction": 0.3}
    note = "; it has splits, so data.test_fraction"
    assert f"{note} is not used" in line("train/", "test/", **shares)
    assert f"{note} and data.val_fraction are not used" in line("train/", "val/", **shares)
    assert "not used" not in line("", **shares)
    assert f"20 train; none held out{note} is not used" in line("train/", test_fraction=0.3)
    assert "none held out, as config.data.val_fraction and config.data.test_fraction are 0;" in line("train/")


def test_a_share_that_is_too_small_is_named(load):
    error_line(lambda: load(photographs(""), test_fraction=0.01), "config.data.test_fraction=0.01:")


# What is wrong with the images


def test_unreadable_images_are_left_out_with_a_warning_each_time(load, capsys):
    files = photographs("train/", "test/", count=9)
    for i in range(4):
        files[f"train/cat/{i}.png"] = files[f"test/dog/{i}.png"] = BROKEN
    for _ in range(2):
        dataset = load(files)
        assert names(dataset.train, dataset.test) == sorted(name for name in files if files[name] != BROKEN)
        assert_prepared(dataset.train, files, 8)
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(" is ")[0] for line in lines[:5]] == [
            *(f"warning: train/cat/{i}.png:" for i in range(4)),
            "warning: test/dog/0.png:",
        ]
        assert lines[5] == "warning: and 3 more images that cannot be read; --mode=audit lists all"
        assert lines[6].endswith("14 train, 14 test; passed over: 3 hidden, 8 that cannot be read")


def test_unreadable_images_are_refused_if_the_config_says_so(load):
    files = photographs("train/", "test/") | {"train/cat/1.png": BROKEN, "test/dog/2.png": None}
    line = error_line(
        lambda: load(files, unreadable="refuse"), "(2 of 16 images", "config.data.unreadable=skip"
    )
    assert line.startswith("train/cat/1.png: is not an image")


def test_a_class_without_a_readable_training_image_is_named(load):
    files = photographs("train/", "test/")
    files |= {name: BROKEN for name in files if name.startswith("train/dog/")}
    error_line(
        lambda: load(files), "/data/photos: class dog: none of its training images", "train/dog/0.png:"
    )
    files = dict.fromkeys(photographs(""), BROKEN)
    error_line(lambda: load(files, test_fraction=0.5), "class cat: none of its training images")


def test_equal_images_in_two_classes_are_one_warning(load, capsys):
    files = photographs("train/", "test/")
    files |= {"train/dog/1.png": files["train/cat/0.png"], "test/dog/3.png": files["train/cat/2.png"]}
    load(files)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: the same image in two classes: train/cat/0.png and train/dog/1.png; 2 such pairs in all"
    ]
    load(photographs("train/", "test/") | {"test/cat/3.png": files["train/cat/2.png"]})
    assert "warning" not in capsys.readouterr().err


def test_images_of_a_pixel_are_images(load):
    files = {
        f"{c}/{i}.png": png(np.full((1, 1, 3), 20 * i + j, np.uint8))
        for j, c in enumerate("ab")
        for i in range(9)
    }
    images = load(files, image_size=4).train.images
    np.testing.assert_array_equal(images[0], fit_square(np.zeros((1, 1, 3), np.uint8), 4))
