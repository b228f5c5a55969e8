"""Data sets by name: loading, resizing, class names, validation splits and rendered hands in addition."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from ml_collections import ConfigDict

import datasets
from configs import default
from datasets import Dataset, Split, signs
from datasets.rendered import dataset as render_dataset
from datasets.rendered.render import render
from resnet.images import fit_square
from tests.datasets.errors import error_line


def data_config(**fields: object) -> ConfigDict:
    config = default.get_config().data
    config.update(fields)
    return config


def write_class_numbers(folder: Path, numbers: list[int]) -> None:
    """Replaces the classes in both files of SIGNS."""
    for file in folder.glob("*.h5"):
        with h5py.File(file, "r+") as arrays:
            del arrays["list_classes"]
            arrays["list_classes"] = np.array(numbers)


# Loading


def test_load_by_name(signs_dir):
    assert len(datasets.load(data_config(dir=str(signs_dir))).test.labels) == 12


def test_the_config_sets_the_variety_of_images():
    config = data_config(name="rendered", train_size=2, test_size=1, variety=0.4)
    images = datasets.load(config).train.images
    np.testing.assert_array_equal(images[1], render(1, 1, seed=0, variety=0.4))


def test_for_an_unknown_name_the_nearest_is_suggested():
    for load in (datasets.load, datasets.class_names):
        for name in ("sings", "SIGNS2"):
            line = error_line(lambda name=name, load=load: load(ConfigDict({"name": name})))
            assert line.startswith(f"config.data.name={name}: expected")
        error_line(lambda load=load: load(ConfigDict({"name": "sings"})), "did you mean 'signs'")
        error_line(lambda load=load: load(ConfigDict({"name": "xyz"})), "'signs' or 'rendered' or 'folder'")


def test_the_config_may_name_every_data_set():
    from configs import rules

    assert rules.CHOICES["data.name"] == datasets.NAMES


# Class names


def test_class_names_without_images(signs_dir):
    assert datasets.class_names(data_config(name="rendered")) == ("0", "1", "2", "3", "4", "5")
    config = data_config(dir=str(signs_dir))
    assert datasets.class_names(config) == datasets.load(config).class_names
    write_class_numbers(signs_dir, [5, 4, 3, 2, 1, 0, 6])
    assert datasets.class_names(config) == ("5", "4", "3", "2", "1", "0", "6")


def test_every_name_has_class_names_where_there_are_no_files(tmp_path, monkeypatch):
    monkeypatch.delenv("SIGNS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("signs", "rendered"):
        assert len(datasets.class_names(data_config(name=name))) == 6
    error_line(
        lambda: datasets.class_names(data_config(name="folder")), "config.data.dir='': ", "--config.data.dir="
    )


# Image sizes


@pytest.mark.parametrize("image_size", [32, 64, 96, 128])
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_images_are_resized_as_for_a_prediction(signs_dir, image_size, crop):
    original = signs.load(str(signs_dir))
    config = data_config(dir=str(signs_dir), image_size=image_size, crop=crop)
    resized = datasets.load(config)
    for before, after in ((original.train, resized.train), (original.test, resized.test)):
        assert after.images.shape == (len(before.images), image_size, image_size, 3)
        assert after.images.dtype == np.uint8
        assert after.mattes is None
        np.testing.assert_array_equal(after.labels, before.labels)
        for image, expected in zip(after.images, before.images, strict=True):
            np.testing.assert_array_equal(image, fit_square(expected, image_size, crop))
    splits = datasets.splits_by_name(resized, config)
    assert splits["train"] is resized.train  # It is not cropped twice.
    assert splits["test"] is resized.test


def test_images_that_have_the_size_are_left_alone(signs_dir, monkeypatch):
    dataset = signs.load(str(signs_dir))
    monkeypatch.setattr(signs, "load", lambda folder: dataset)
    loaded = datasets.load(data_config(dir=str(signs_dir), image_size=64))
    assert loaded.train is dataset.train
    assert loaded.test is dataset.test


def test_of_oblong_images_the_centre_is_cut_out(signs_dir):
    for name in ("train", "test"):
        with h5py.File(signs_dir / f"{name}_signs.h5", "r+") as file:
            images = file[f"{name}_set_x"][:]
            del file[f"{name}_set_x"]
            file[f"{name}_set_x"] = images[:, :, 8:56]
    train = datasets.load(data_config(dir=str(signs_dir), image_size=48)).train
    original = signs.load(str(signs_dir)).train.images
    assert original.shape[1:] == (64, 48, 3)
    np.testing.assert_array_equal(train.images, original[:, 8:56])


def test_mattes_are_resized_like_their_images(monkeypatch):
    mattes = np.zeros((3, 64, 64), np.uint8)
    for i in range(3):
        mattes[i, 10 : 30 + 8 * i, 20:50] = 255
    # Where a picture is white, there is hand, so that the two stay equal.
    split = Split(np.repeat(mattes[..., None], 3, axis=-1), np.arange(3, dtype=np.int32), mattes)
    dataset = Dataset(split, split, ("0", "1", "2"))
    monkeypatch.setattr(render_dataset, "load", lambda **arguments: dataset)
    resized = datasets.load(data_config(name="rendered", image_size=48)).train
    assert resized.mattes.shape == (3, 48, 48)
    assert resized.mattes.dtype == np.uint8
    np.testing.assert_array_equal(resized.mattes, resized.images[..., 1])
    assert resized.mattes.max() == 255
    np.testing.assert_allclose(resized.mattes.mean((1, 2)), mattes.mean((1, 2)), rtol=0.03)


# Validation


def split_config(**changes) -> ConfigDict:
    return data_config(image_size=2, **changes)


@pytest.fixture
def dataset() -> Dataset:
    """60 training images `[60, 2, 2, 3]` whose pixels are the image's number, labels in turn."""
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 2, 2, 3))
    return Dataset(Split(images, (np.arange(60) % 6).astype(np.int32)), None, tuple("abcdef"))


def test_no_validation_split_by_default(dataset):
    train, val = datasets.train_val_split(dataset, split_config())
    assert train is dataset.train
    assert val is None


def test_validation_images_of_a_data_set_are_used_as_they_are(dataset):
    own = dataset.train.subset(np.arange(6))
    train, val = datasets.train_val_split(dataset._replace(val=own), split_config(val_fraction=0.5))
    assert train is dataset.train
    assert val is own


def test_only_the_splits_that_there_are_have_a_name(dataset):
    assert list(datasets.splits_by_name(dataset, split_config())) == ["train"]
    whole = dataset._replace(test=dataset.train)
    assert list(datasets.splits_by_name(whole, split_config(folds=5))) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [({"val_fraction": 0.2}, (48, 12)), ({"folds": 5, "fold": 4}, (48, 12))],
)
def test_images_keep_their_labels(dataset, changes, sizes):
    train, val = datasets.train_val_split(dataset, split_config(**changes))
    assert (len(train.images), len(val.images)) == sizes
    for part in (train, val):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 6, part.labels)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32
    numbers = np.concatenate([train.images, val.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(numbers), np.arange(60))


def test_config_fields_reach_the_split(dataset):
    def held_out(**changes):
        return datasets.train_val_split(dataset, split_config(**changes))[1].images[:, 0, 0, 0].tolist()

    assert held_out(val_fraction=0.2) != held_out(val_fraction=0.2, split_seed=1)
    assert held_out(folds=5) != held_out(folds=5, split_seed=1)
    assert held_out(folds=5, fold=0) != held_out(folds=5, fold=1)


def test_folds_of_all_images_hold_the_test_images_too_and_keep_twins_together(signs_dir):
    photographs = signs.load(str(signs_dir))
    twins = np.clip(photographs.train.images[:12].astype(int) + 2, 0, 255).astype(np.uint8)
    with h5py.File(signs_dir / "test_signs.h5", "r+") as arrays:
        arrays["test_set_x"][:] = twins
        arrays["test_set_y"][:] = photographs.train.labels[:12]
    both = (photographs.train.images, twins)
    numbers = {image.tobytes(): i for images in both for i, image in enumerate(images)}
    held_out = []
    for fold in range(3):
        config = data_config(dir=str(signs_dir), folds=3, fold=fold, folds_of="all")
        dataset = datasets.load(config)
        assert dataset.test is None
        train, val = datasets.train_val_split(dataset, config)
        assert len(train.labels) + len(val.labels) == 72
        for part, other in ((train, val), (val, train)):
            here = [numbers[image.tobytes()] for image in part.images]
            assert not set(here) & {numbers[image.tobytes()] for image in other.images}
            np.testing.assert_array_equal(part.labels, photographs.train.labels[here])
        held_out += [numbers[image.tobytes()] for image in val.images]
    assert sorted(held_out) == sorted([*range(60), *range(12)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_fraction": 1.5}, ["config.data.val_fraction=1.5:"]),
        ({"folds": 1}, ["config.data.folds=1:"]),
    ],
)
def test_config_that_cannot_be_split_by_is_named_in_one_line(dataset, changes, words):
    message = error_line(lambda: datasets.train_val_split(dataset, split_config(**changes)), *words)
    assert message.startswith("config.data.")


# Rendered hands beside photographs


@pytest.mark.parametrize("classes", [[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]])
def test_rendered_hands_are_not_added_to_other_classes(signs_dir, classes):
    write_class_numbers(signs_dir, classes)
    assert len(datasets.load(data_config(dir=str(signs_dir))).class_names) == len(classes)
    listed = ", ".join(map(str, classes))
    error_line(
        lambda: datasets.load(data_config(dir=str(signs_dir), rendered_size=9)),
        "config.data.rendered_size=9: adds hands that show 0, 1, 2, 3, 4, 5,",
        f"but the classes of signs are {listed}; set it to 0",
    )


def test_a_number_of_rendered_hands_out_of_range_is_named():
    split = Split(np.zeros((7, 32, 32, 3), np.uint8), np.arange(7, dtype=np.int32) % 6)
    config = data_config(rendered_size=-3)
    line = error_line(lambda: datasets.extend_training(split, config, with_mattes=False))
    assert line == "config.data.rendered_size=-3: expected a whole number, 0 or more"


def test_hands_are_not_added_to_images_of_a_size_that_is_not_rendered(signs_dir):
    config = data_config(dir=str(signs_dir), image_size=600, rendered_size=5)
    line = error_line(lambda: datasets.load(config))
    assert line == "config.data.image_size=600: expected a whole number from 16 to 512"


def test_resized_photographs_are_extended_by_hands_of_the_same_size(signs_dir):
    config = data_config(dir=str(signs_dir), image_size=32, rendered_size=5)
    train = datasets.load(config).train
    extended = datasets.extend_training(train, config, with_mattes=True)
    assert extended.images.shape == (65, 32, 32, 3)
    assert extended.mattes.shape == (65, 32, 32)


def test_training_is_extended_by_rendered_hands_with_mattes_for_all() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (7, 32, 32, 3), np.uint8), np.arange(7, dtype=np.int32) % 6)
    config = default.get_config().data
    assert datasets.extend_training(split, config, with_mattes=False) is split
    config.update(rendered_size=13, image_size=32, variety=0.4)
    extended = datasets.extend_training(split, config, with_mattes=True)
    hands = render_dataset.load(seed=0, train_size=13, test_size=1, image_size=32, variety=0.4).train
    np.testing.assert_array_equal(extended.images[:7], split.images)
    np.testing.assert_array_equal(extended.images[7:], hands.images)
    np.testing.assert_array_equal(extended.labels, [*split.labels, *hands.labels])
    np.testing.assert_array_equal(extended.mattes[7:], hands.mattes)
    assert datasets.extend_training(split, config, with_mattes=False).mattes is None
    config.crop = 0.5  # as of the images beside them
    cropped = datasets.extend_training(split, config, with_mattes=False).images
    np.testing.assert_array_equal(cropped[7], fit_square(hands.images[0], 32, 0.5))


@pytest.mark.parametrize(
    ("path", "name"), [("photos/", "photos"), (".", "here"), ("x/..", "here"), ("~nobody_here/x", "x")]
)
def test_a_folder_is_called_by_its_last_name(tmp_path, monkeypatch, path, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert datasets.display_name(data_config(name="folder", dir=path)) == name
