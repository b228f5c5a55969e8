"""A folder of the user's own images through all modes: what is trained on, printed, written and refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.command_line import ROOT, Run, assert_refused, flags_of, run_main
from tests.runs import NO_RESAMPLING, SMALL, assert_same_bits, metrics_of, summary_of

CLASSES = ("class 2", "class 10", "größer")
FOLDER_CONFIG = f"--config={ROOT / 'configs' / 'folder.py'}"
SHORT = flags_of(
    SMALL
    | {
        "model.depth": 16,
        "num_epochs": 2,
        "batch_size": 12,
        "augment.appearance": 0.0,
        "augment.saturation": 0.0,  # It would have no effect, which is told.
        "data.image_size": 32,
        "data.store_size": 40,
        "data.val_fraction": 0.2,
        "data.test_fraction": 0.2,
        "optimizer.warmup_epochs": 0.0,
    }
)


def draw_picture(label: int, seed: int) -> Image.Image:
    """Returns noise with a bright bar, whose place shows the class, in one of several shapes."""
    rng = np.random.default_rng([label, seed])
    pixels = rng.integers(0, 90, (44 + seed % 3, 40 + seed % 5, 3), dtype=np.uint8)
    pixels[8 + 12 * label : 18 + 12 * label, 6:-6] += 150
    return Image.fromarray(pixels)


def write_pictures(folder: Path, count: int = 20, splits: tuple[str, ...] = ("",)) -> Path:
    """Writes `count` pictures of each class into `folder`, for each of `splits`."""
    for number, split in enumerate(splits):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                draw_picture(label, 100 * number + i).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def photos(made_once: Callable[..., Path]) -> Path:
    """A folder of three classes, with files that are no images of them; tests leave it as it is."""

    def write(folder: Path) -> None:
        write_pictures(folder)
        (folder / "class 2" / "notes.txt").write_text("a file that is no image")
        (folder / "class 2" / "broken.jpg").write_bytes(b"no image")
        (folder / ".DS_Store").write_bytes(b"")

    return made_once("photos", write)


@pytest.fixture(scope="session")
def photos_run(made_once: Callable[..., Path], photos: Path) -> Path:
    """The workdir of a short run on `photos`; tests leave it as it is."""

    def train(workdir: Path) -> None:
        flags = [FOLDER_CONFIG, *SHORT, f"--config.data.dir={photos}"]
        assert run_main(*flags, f"--workdir={workdir}") == 0

    return made_once("photos_run", train)


def test_classes_and_images_are_those_of_the_folder(photos_run: Path) -> None:
    stored = json.loads((photos_run / "config.json").read_text())
    assert tuple(stored["class_names"]) == CLASSES
    rows = [line.split("\t") for line in (photos_run / "images.tsv").read_text().splitlines()[1:]]
    assert {split: [row[0] for row in rows].count(split) for split in ("train", "val", "test")} == {
        "train": 39,
        "val": 9,
        "test": 12,
    }
    assert all(Path(file).parent.name == label for _, label, file, _ in rows)
    assert {"train", "val", "test"} <= summary_of(photos_run).keys()


@pytest.mark.parametrize(
    ("mode", "flags", "printed"),
    [
        ("eval", ["--split=val"], "balanced accuracy"),
        ("report", [], "written: "),
        ("probe", [], "accuracy on 12 test images"),
        ("show_batch", [], "written: "),
        ("audit", [], "broken.jpg: is not an image"),
        ("export", ["--format=safetensors"], "RGB"),
        ("summary", [], "total"),
    ],
)
def test_every_mode_works_on_a_run_of_a_folder(
    run: Run, photos_run: Path, tmp_path: Path, mode: str, flags: list[str], printed: str
) -> None:
    workdir = shutil.copytree(photos_run, tmp_path / "run")
    result = run(f"--mode={mode}", f"--workdir={workdir}", *flags)
    assert result.code == 0, result.err
    assert printed in result.out


def test_predictions_use_the_names_of_the_folders(run: Run, photos: Path, photos_run: Path) -> None:
    result = run("--mode=predict", f"--workdir={photos_run}", "--json", photos / CLASSES[2] / "0.png")
    assert result.code == 0, result.err
    assert set(json.loads(result.out)["probabilities"]) == set(CLASSES)


def test_what_cannot_be_used_is_said_at_the_start(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("--mode=show_batch", FOLDER_CONFIG, *SHORT, f"--config.data.dir={photos}",
                 f"--workdir={tmp_path}")  # fmt: skip
    warning, line = result.err.splitlines()
    assert "broken.jpg: is not an image" in warning
    assert line.startswith("photos: 60 images of 3 classes in class folders: 39 train, 9 val, 12 test;")
    for part in ("1 hidden", "1 no images by their name", "1 that cannot be read"):
        assert part in line
    refused = run("--mode=show_batch", FOLDER_CONFIG, *SHORT, f"--config.data.dir={photos}",
                  "--config.data.unreadable=refuse", f"--workdir={tmp_path}")  # fmt: skip
    assert_refused(refused, "broken.jpg: is not an image", "1 of 61 images cannot be read")


def test_without_test_images_validation_is_measured(run: Run, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", count=8, splits=("train", "valid"))
    workdir = tmp_path / "run"
    result = run(FOLDER_CONFIG, *SHORT, f"--config.data.dir={photos}", f"--workdir={workdir}")
    assert result.code == 0, result.err
    assert "no test images, so validation is what is measured" in result.err
    assert "validation accuracy" in result.out
    assert "test" not in summary_of(workdir)
    evaluated = run("--mode=eval", f"--workdir={workdir}")
    assert evaluated.out.startswith("val split")
    assert (workdir / "eval_val.json").exists()
    refused = run("--mode=eval", f"--workdir={workdir}", "--split=test")
    assert "the run held out no test images" in refused.err.splitlines()[-1]
    assert refused.code == 2


def test_a_folder_that_changed_is_not_resumed_on(
    run: Run, photos_run: Path, photos: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(photos, tmp_path / "photos")
    (changed / "größer" / "0.png").unlink()
    draw_picture(0, 77).save(changed / "class 2" / "new.png")
    workdir = shutil.copytree(photos_run, tmp_path / "run")
    before = (workdir / "config.json").read_bytes(), (workdir / "images.tsv").read_bytes()
    flags = [FOLDER_CONFIG, *SHORT, "--config.num_epochs=3", f"--config.data.dir={changed}"]
    result = run(*flags, f"--workdir={workdir}")
    assert result.code == 2
    line = result.err.splitlines()[-1]
    for part in (
        "holds a run on other images",
        "1 image added (class 2/new.png)",
        "1 removed (größer/0.png)",
    ):
        assert part in line
    assert before == ((workdir / "config.json").read_bytes(), (workdir / "images.tsv").read_bytes())


def test_signs_as_files_train_to_the_same_bits(run: Run, shared_signs_dir: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        with h5py.File(shared_signs_dir / f"{split}_signs.h5") as file:
            for i, (image, label) in enumerate(
                zip(file[f"{split}_set_x"][:], file[f"{split}_set_y"][:], strict=True)
            ):
                path = tmp_path / "signs" / split / str(label) / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    config = f"--config={ROOT / 'configs' / 'default.py'}"
    small = SMALL | NO_RESAMPLING | {"model.depth": 16, "augment.appearance": 0.0}
    short = flags_of(small | {"num_epochs": 2, "batch_size": 12})
    for name, folder in (("signs", shared_signs_dir), ("folder", tmp_path / "signs")):
        flags = [f"--config.data.name={name}", f"--config.data.dir={folder}"]
        assert run(config, *short, *flags, f"--workdir={tmp_path / name}_run").code == 0
    assert_same_bits(tmp_path / "signs_run", tmp_path / "folder_run")


def test_all_recipes_at_once_train(run: Run, photos: Path, tmp_path: Path) -> None:
    recipes = flags_of(
        {
            "augment.policy": "trivial",
            "augment.erasing": 0.5,
            "augment.mixup": 0.2,
            "augment.cutmix": 1.0,
            "model.stochastic_depth": 0.2,
            "loss.name": "sigmoid",
            "data.sampling": "balanced",
            "optimizer.name": "lamb",
            "optimizer.accumulate": 2,
        }
    )
    flags = [FOLDER_CONFIG, *SHORT, *recipes, f"--config.data.dir={photos}"]
    result = run(*flags, f"--workdir={tmp_path}")
    assert result.code == 0, result.err
    losses = [line["loss"] for line in metrics_of(tmp_path, "train")]
    assert len(losses) >= 2
    assert np.isfinite(losses).all()


def test_what_is_no_data_set_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("PK")
    one_class = write_pictures(tmp_path / "one_class", count=1)
    for name in CLASSES[1:]:
        shutil.rmtree(one_class / name)
    unreadable = write_pictures(tmp_path / "unreadable", count=2)
    for file in (unreadable / CLASSES[1]).iterdir():
        file.write_bytes(b"no image")
    expected = {
        "missing": "no such file or folder",
        "empty": "holds no images",
        "file": "expected a folder, an archive",
        "one_class": "no folders of classes",
        "unreadable": "class class 10: none of its training images can be read",
    }
    for name, words in expected.items():
        workdir = tmp_path / "run"
        result = run(FOLDER_CONFIG, *SHORT, f"--config.data.dir={tmp_path / name}", f"--workdir={workdir}")
        assert_refused(result, str(tmp_path / name), words)
        assert not workdir.exists()
