"""Folders of labelled images: which are found, which are refused, and how hits are counted."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation.folder import evaluate_crops, labelled_images
from resnet import imagenet
from resnet.errors import UserError
from tests.pictures import random_pictures, sort_into

CLASSES = ("fist", "palm", "point")
NAMES, SYNSETS = tuple(imagenet.classes().values()), tuple(imagenet.classes())


class FakeClassifier:
    """Its probabilities are the first pixels of an image, so that they are known."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, :6, 0].astype(np.float32)


def rank(scores: np.ndarray, label: int) -> int:
    """How many are more probable, or as probable and before it."""
    return int((scores > scores[label]).sum() + (scores[:label] == scores[label]).sum())


def test_counts_agree_with_numpy_and_no_batch_is_kept() -> None:
    rng = np.random.default_rng(1)
    kept: list[weakref.ref] = []
    labels: dict[Path, int] = {}
    ranks: dict[str, list[int]] = {"1-crop": [], "10-crop": []}

    def batches() -> Iterator[tuple[list[Path], np.ndarray]]:
        for batch in range(6):
            squares = rng.integers(0, 256, (3, 10, 6, 6, 3), np.uint8)
            files = [Path(f"{batch}/{i}") for i in range(3)]
            for file, crops in zip(files, squares[:, :, 0, :6, 0].astype(float), strict=True):
                labels[file] = label = int(rng.integers(6))
                ranks["1-crop"].append(rank(crops[0], label))
                ranks["10-crop"].append(rank(crops.mean(0), label))
            kept.append(weakref.ref(squares))
            yield files, squares
            del squares
            assert sum(ref() is not None for ref in kept) <= 1

    scores = evaluate_crops(FakeClassifier(), batches(), labels)
    assert scores["images"] == 18
    for name, places in ranks.items():
        for k in (1, 5):
            assert scores[name][f"top{k}_accuracy"] == np.mean(np.array(places) < k)


def test_folders_of_classes(tmp_path: Path) -> None:
    pictures = random_pictures(3)
    folder = sort_into(tmp_path / "val", pictures, ["palm", "fist", "elsewhere"])
    (folder / "elsewhere").rename(tmp_path / "elsewhere")
    (folder / "point").symlink_to(tmp_path / "elsewhere")
    (folder / ".cache").mkdir()
    (folder / "fist" / "@eaDir").mkdir()
    (folder / "fist" / "@eaDir" / "01.png").touch()
    (folder / "__MACOSX").mkdir()
    (folder / "README.txt").write_text("mine")
    labels = labelled_images(folder, CLASSES)
    assert {str(file.relative_to(folder)): label for file, label in labels.items()} == {
        "fist/01.png": 0,
        "palm/00.png": 1,
        "point/02.png": 2,
    }
    synonyms = tuple(f"{name}, a synonym" for name in NAMES)
    sort_into(tmp_path / "mixed", pictures, [SYNSETS[7], NAMES[8], synonyms[9]])
    assert sorted(labelled_images(tmp_path / "mixed", synonyms).values()) == [7, 8, 9]


def test_names_are_the_same_however_their_letters_are_composed(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    folder = sort_into(tmp_path / "val", random_pictures(2), [composed, decomposed])
    for name in (composed, decomposed):
        assert list(labelled_images(folder, ("tea", name)).values()) == [1, 1]


def test_folders_are_called_as_classes_are_shown(tmp_path: Path) -> None:
    folder = sort_into(tmp_path / "val", random_pictures(2), [os.fsdecode(b"caf\xe9"), "tea\n"])
    assert [*labelled_images(folder, ("tea\\x0a", "caf\\xe9")).values()] == [1, 0]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    folder = sort_into(tmp_path / "val", random_pictures(2), ["fist", "palm"])
    sort_into(tmp_path, random_pictures(1), ["album"])
    (folder / "fist" / "album").symlink_to(tmp_path / "album")
    (folder / "palm" / "again").symlink_to(folder / "palm")
    (folder / "palm" / "lost.png").symlink_to(tmp_path / "nothing")
    reports: list[UserError] = []
    labels = labelled_images(folder, CLASSES, reports.append)
    assert {str(file.relative_to(folder)): label for file, label in labels.items()} == {
        "fist/00.png": 0,
        "fist/album/00.png": 0,
        "palm/01.png": 1,
    }
    assert [str(report) for report in reports] == [
        f"{folder}: holds 1 broken links, expected none; replace them by files"
    ]


def test_pictures_of_kinds_that_cannot_be_read_are_told_once(tmp_path: Path) -> None:
    folder = sort_into(tmp_path / "val", random_pictures(2), ["fist", "palm"])
    (folder / "fist" / "1.dng").touch()
    (folder / "palm" / "2.NEF").touch()
    reports: list[UserError] = []
    assert len(labelled_images(folder, CLASSES, reports.append)) == 2
    assert [str(report) for report in reports] == [
        "2 folders: 2 raw pictures of cameras cannot be read; convert them to JPEG or PNG"
    ]


def test_folders_that_cannot_be_measured(tmp_path: Path) -> None:
    def refusal(folder: Path, class_names: tuple[str, ...] = CLASSES) -> str:
        with pytest.raises(UserError) as caught:
            labelled_images(folder, class_names)
        return str(caught.value)

    folder = sort_into(tmp_path / "val", random_pictures(2), ["fist", "."])
    assert "has 1 images outside of the classes' folders, such as 01.png" in refusal(folder)
    (folder / "01.png").unlink()
    (folder / "palm").mkdir()
    assert "palm: the folder has no image files" in refusal(folder)
    (folder / "palm").rename(folder / "hand")
    assert "no class of these weights: hand; expected one for each class, named as fist" in refusal(folder)
    assert "no class of these weights: fist, hand; expected" in refusal(folder, NAMES)
    assert "named as n01440764 or tench" in refusal(folder, NAMES)
    assert "has no folders in it" in refusal(folder / "fist")
    assert "cannot be listed (Not a directory)" in refusal(folder / "fist" / "00.png")
    assert "cannot be listed (No such file or directory)" in refusal(tmp_path / "none")
