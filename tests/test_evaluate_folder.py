"""Weights of others on the command line: top-1 and top-5 on labelled folders, and predictions."""

import json
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import main
import settings
from configs import default
from datasets import imagenet
from errors import UserError
from evaluate_folder import evaluate_crops, labelled_images
from resnet import load_pretrained
from resnet.checkpoint import Checkpoints
from resnet.network import Network, Weights
from tests.resnet.foreign.test_reading import in_torchvision

ROOT = Path(__file__).parent.parent
SIZE = 64
CLASSES = ("fist", "palm", "point")
NAMES, SYNSETS = tuple(imagenet.classes().values()), tuple(imagenet.classes())
# The published protocol in a smaller size: 64 of 72.
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


pytestmark = pytest.mark.usefixtures("restored_environment")


def small_config():
    config = default.get_config()
    config.compute_dtype = "float32"
    config.compilation_cache = False
    config.ema_decay = 0.0
    config.model.update({"depth": 18, "width": 8, "convolution": "lax"})
    config.data.image_size = SIZE
    return config


def weights_for(classes: int) -> Weights:
    """Random weights that tell images apart: a fresh network's head is nearly zero."""
    weights = Network(small_config(), classes).init(0)
    weights.params["head"]["kernel"] = weights.params["head"]["kernel"] * 30
    return weights


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-18 of ImageNet's classes, as torchvision would save it."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(in_torchvision(weights_for(1000).named()), file)
    return file


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never trained."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    settings.save(small_config(), CLASSES, workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, weights_for(3)._asdict(), {}, None)
    return workdir


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Eleven pictures of several sizes, more than a batch, each of its own colours."""
    rng = np.random.default_rng(0)
    sizes = [(72, 72), (144, 150), (90, 200), (200, 101), (75, 80), (300, 280), (72, 99)]
    return [
        np.array(
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(sizes[i % 7], Image.BILINEAR)
        )
        for i in range(11)
    ]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        # ml_collections runs a second config file on top of the first one's names.
        sys.modules.pop("config_config", None)
        code = main.run(["main.py", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def ten_crops_of_the_whole(picture: np.ndarray) -> np.ndarray:
    """Cut after resizing the whole picture, the shorter side to 72."""
    height, width, _ = picture.shape
    shorter = min(height, width)
    whole = Image.fromarray(picture).resize((width * 72 // shorter, height * 72 // shorter), Image.BICUBIC)
    right, bottom = whole.width - SIZE, whole.height - SIZE
    places = [(round(right / 2), round(bottom / 2)), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    five = [whole.crop((x, y, x + SIZE, y + SIZE)) for x, y in places]
    return np.stack([*map(np.array, five), *(np.array(square)[:, ::-1] for square in five)])


def expected_scores(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Probabilities [N, 1000] of one crop and the mean of ten, by another way through the network."""
    config = small_config()
    config.data.update({"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)})
    network, weights = Network(config, 1000), weights_for(1000)
    squares = np.concatenate([ten_crops_of_the_whole(picture) for picture in pictures])
    normalized = ((squares / 255 - MEAN) / STD).astype(np.float32)
    logits = np.asarray(network.apply(weights, normalized, train=False)[0], np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (shares / shares.sum(-1, keepdims=True)).reshape(len(pictures), 10, 1000)
    return {"1-crop": probabilities[:, 0], "10-crop": probabilities.mean(1)}


def sort_into(folder: Path, pictures: list[np.ndarray], names: list[str]) -> Path:
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name / f"{i:02d}.png")
    return folder


# Numbers


def test_top_1_and_top_5_of_one_crop_and_of_ten(
    run: Run, weights_file: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    scores = expected_scores(pictures)
    # Which place the right class has by ten crops; half of the folders are called by ids.
    places = [0, 0, 0, 0, 1, 2, 4, 5, 6, 500, 999]
    labels = [int(np.argsort(-row)[k]) for row, k in zip(scores["10-crop"], places, strict=True)]
    names = [SYNSETS[label] if i % 2 else NAMES[label] for i, label in enumerate(labels)]
    folder = sort_into(tmp_path / "val", pictures, names)
    ranks = {
        name: [int((row > row[label]).sum()) for row, label in zip(table, labels, strict=True)]
        for name, table in scores.items()
    }
    assert ranks["10-crop"] == places
    assert ranks["1-crop"] != places, "one crop and ten are too much alike"
    for crops, measured in ((1, ["1-crop"]), (10, ["1-crop", "10-crop"])):
        code, out, err = run(
            "--mode=eval", f"--config={ROOT / 'configs' / 'imagenet.py'}",
            f"--config.init_from={weights_file}", f"--config.data.image_size={SIZE}",
            f"--config.data.crop={SIZE / 72}", "--config.model.convolution=lax",
            "--config.compilation_cache=false", f"--workdir={tmp_path / 'out'}", "--json",
            f"--crops={crops}", folder,
        )  # fmt: skip
        assert (code, err) == (0, "")
        report = json.loads(out)
        assert report["folder"] == str(folder)
        assert (report["images"], report["unreadable"]) == (11, 0)
        assert (report["image_size"], report["crop"]) == (SIZE, SIZE / 72)
        assert [name for name in report if name.endswith("-crop")] == measured
        for name in measured:
            for k in (1, 5):
                right = sum(rank < k for rank in ranks[name])
                assert report[name][f"top{k}_accuracy"] == pytest.approx(right / 11)
                assert report[name][f"top{k}_error"] == pytest.approx(1 - right / 11)
        file = "eval_folder.json" if crops == 1 else "eval_folder_10_crops.json"
        assert json.loads((tmp_path / "out" / file).read_text()) == report


def test_settings_of_the_protocol() -> None:
    from configs import imagenet as protocol

    config = protocol.get_config()
    settings.check(config)
    assert (config.data.image_size, config.data.image_size / config.data.crop) == (224, 256)


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

    measured = evaluate_crops(FakeClassifier(), batches(), labels)
    assert measured["images"] == 18
    for name, found in ranks.items():
        for k in (1, 5):
            assert measured[name][f"top{k}_accuracy"] == np.mean(np.array(found) < k)


# What is printed and written


def test_eval_of_weights_alone_prints_a_table(
    run: Run, weights_file: Path, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sort_into(tmp_path / "val", pictures[:2], ["tench", "n01443537"])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, out, err = run("--mode=eval", f"--weights={weights_file}", folder)
    assert (code, err) == (0, "")
    assert out.startswith(f"{folder}: 2 images, 2 classes\n")
    assert "top-5 error" in out
    assert "1-crop" in out
    assert not list((tmp_path / "here").iterdir())


def test_eval_of_a_run_on_a_folder(
    run: Run, workdir: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    folder = sort_into(tmp_path / "photos", pictures, [CLASSES[i % 3] for i in range(11)])
    code, out, err = run("--mode=eval", f"--workdir={workdir}", folder)
    assert (code, err) == (0, "")
    assert f"written: {workdir / 'eval_folder.json'}" in out
    report = json.loads((workdir / "eval_folder.json").read_text())
    assert (report["workdir"], report["step"], report["weights"]) == (str(workdir), 0, "raw")
    predicted = [prediction.label for prediction in load_pretrained(workdir).predict(pictures)]
    right = [label == CLASSES[i % 3] for i, label in enumerate(predicted)]
    assert report["1-crop"]["top1_accuracy"] == np.mean(right)
    assert report["1-crop"]["top5_accuracy"] == 1


def test_unreadable_images_are_told_and_the_others_measured(
    run: Run, workdir: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    folder = sort_into(tmp_path / "photos", pictures[:2], ["fist", "palm"])
    (folder / "palm" / "bad.jpg").write_text("no image")
    code, out, err = run("--mode=eval", f"--workdir={workdir}", "--json", "--crops=10", folder)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "bad.jpg: is not an image" in err
    report = json.loads(out)
    assert (report["images"], report["unreadable"]) == (2, 1)
    for file in folder.glob("*/*.png"):
        file.write_bytes(b"")
    code, out, err = run("--mode=eval", f"--workdir={workdir}", folder)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("none of its 3 images can be read; expected some that can")


def test_predict_with_weights_prints_the_five_likeliest(
    run: Run, weights_file: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    folder = sort_into(tmp_path, pictures[:2], ["photos"] * 2) / "photos"
    expected = load_pretrained(weights_file).predict(sorted(folder.iterdir()))
    code, out, err = run("--mode=predict", f"--weights={weights_file}", folder)
    assert (code, err) == (0, "")
    header, _, *rows = out.splitlines()
    assert header.split() == ["path", "synset", "label", "probability"]
    assert [rows[0].split()[0], rows[5].split()[0]] == [prediction.path for prediction in expected]
    assert len(rows) == 10
    for i, prediction in enumerate(expected):
        values = np.array(list(prediction.probabilities.values()))
        order = np.argsort(-values)[:5]
        assert [(g.synset, g.label, g.probability) for g in prediction.top()] == [
            (SYNSETS[j], NAMES[j], values[j]) for j in order
        ]
        for row, j in zip(rows[5 * i :], order, strict=False):
            assert row.split()[-1] == f"{values[j]:.4f}"
            assert f" {SYNSETS[j]}  {NAMES[j]} " in row
    code, out, err = run("--mode=predict", f"--weights={weights_file}", "--json", folder)
    assert (code, err) == (0, "")
    line = json.loads(out.splitlines()[0])
    assert list(line) == ["path", "label", "probability", "probabilities", "top"]
    assert [guess["label"] for guess in line["top"]] == [guess.label for guess in expected[0].top()]


def test_features_of_weights(
    run: Run, weights_file: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    folder = sort_into(tmp_path, pictures[:2], ["photos"] * 2) / "photos"
    flags = ["--mode=features", f"--weights={weights_file}", "--layer=stage1"]
    assert run(*flags, f"--workdir={tmp_path / 'out'}", folder)[0] == 0
    classifier = load_pretrained(weights_file)
    prepared = np.stack([classifier.prepare(file) for file in sorted(folder.iterdir())])
    with np.load(tmp_path / "out" / "features_stage1.npz") as archive:
        np.testing.assert_array_equal(archive["features"], classifier.features(prepared, "stage1"))
    code, _, err = run(*flags, folder)
    assert code == 2
    assert "--workdir is missing: name the folder that --mode=features writes to" in err


# What is refused


def test_folders_of_classes(pictures: list[np.ndarray], tmp_path: Path) -> None:
    folder = sort_into(tmp_path / "val", pictures[:3], ["palm", "fist", "elsewhere"])
    (folder / "elsewhere").rename(tmp_path / "elsewhere")
    (folder / "point").symlink_to(tmp_path / "elsewhere")
    (folder / ".cache").mkdir()
    (folder / "README.txt").write_text("mine")
    found = labelled_images(folder, CLASSES)
    assert {str(file.relative_to(folder)): label for file, label in found.items()} == {
        "fist/01.png": 0,
        "palm/00.png": 1,
        "point/02.png": 2,
    }
    synonyms = tuple(f"{name}, a synonym" for name in NAMES)
    sort_into(tmp_path / "mixed", pictures[:3], [SYNSETS[7], NAMES[8], synonyms[9]])
    assert sorted(labelled_images(tmp_path / "mixed", synonyms).values()) == [7, 8, 9]


def test_folders_that_cannot_be_measured(pictures: list[np.ndarray], tmp_path: Path) -> None:
    def refusal(folder: Path, class_names: tuple[str, ...] = CLASSES) -> str:
        with pytest.raises(UserError) as caught:
            labelled_images(folder, class_names)
        return str(caught.value)

    folder = sort_into(tmp_path / "val", pictures[:2], ["fist", "."])
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


WITH_CONFIG = f"--config={ROOT / 'configs' / 'imagenet.py'}"
COMBINATIONS = {
    "predict a.jpg": "--workdir is missing: name the folder of the run, such as runs/signs, or a file by",
    "eval photos": "--workdir is missing: name the folder of the run, such as runs/signs, or a file by",
    "predict --weights=w --workdir=RUN a.jpg": "--weights and --workdir: expected one, the file or the run",
    "predict --weights=w": "--mode=predict needs images",
    "predict --weights=w --raw a.jpg": "--raw: a file has one set of weights; leave it out",
    "predict --weights=w --crops=10 a.jpg": "--crops: is for --mode=eval on a folder of images",
    "eval --weights=w": "--mode=eval needs images: name the folder",
    "eval --weights=w --workdir=RUN photos": "holds a run, but the weights are those of a file",
    "eval --weights=w --checkpoint=last photos": "--checkpoint: a file has one set of weights",
    "eval --weights=w --split=val photos": "--split: a folder of images is measured whole",
    "eval --weights=w --corruptions=extra photos": "--corruptions: is for the images of a data set",
    "eval --weights=w photos more": "found 2 folders of images; expected one",
    "eval --workdir=RUN --crops=10": "--crops: is for --mode=eval on a folder of images",
    "eval --weights=w --crops=5 photos": "--crops",
    f"eval {WITH_CONFIG} --weights=w photos": "--weights and --config: expected one",
    f"eval {WITH_CONFIG} photos": "or name a file of weights by --config.init_from",
    f"eval {WITH_CONFIG} --config.init_from=w": "--mode=eval needs images: name the folder",
    f"eval {WITH_CONFIG} --config.init_from=FILE --config.data.image_size=8 photos": "at least 32 pixels",
    "train --weights=w": "--weights: not for --mode=train; expected one of eval, predict, features",
    "export --weights=w": "--weights: not for --mode=export",
    "report --workdir=RUN --corruptions=extra": "--corruptions: not for --mode=report; it is for eval",
    "predict --workdir=RUN --split=val a.jpg": "--split: not for --mode=predict; it is for eval, report",
    f"eval {WITH_CONFIG} --workdir=RUN --config.temperature=1": "--config.temperature: --mode=eval takes the",
    "predict --weights=w a.jpg": "w: no such file; check the path",
    "eval --weights=FILE photos": "photos: cannot be listed (No such file or directory)",
}


@pytest.mark.parametrize("flags", COMBINATIONS)
def test_combinations_of_flags_that_make_no_sense(
    run: Run, flags: str, workdir: Path, weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = flags.replace("RUN", str(workdir)).replace("FILE", str(weights_file)).split()
    code, out, err = run(f"--mode={words[0]}", *words[1:])
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert COMBINATIONS[flags] in err
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_without_a_head_know_no_classes(run: Run, pictures: list[np.ndarray], tmp_path: Path) -> None:
    arrays = in_torchvision(weights_for(3).named())
    save_file({name: array for name, array in arrays.items() if "fc" not in name}, tmp_path / "w.safetensors")
    folder = sort_into(tmp_path / "val", pictures[:1], ["fist"])
    for mode in ("eval", "predict"):
        code, out, err = run(f"--mode={mode}", f"--weights={tmp_path / 'w.safetensors'}", folder)
        assert (code, out) == (2, "")
        assert "these weights have no head" in err
