"""`--mode=eval`: a run on its data, under corruptions and on other data; a run or weights on a folder."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import datasets
from datasets.contents import image_table
from datasets.rendered.render import TEST, render
from resnet import Classifier, imagenet, load_pretrained
from resnet.preprocessing import PREPARATION
from tests.command_line import DEFAULT_CONFIG, ROOT, Run, assert_refused, assert_succeeded, flags_of
from tests.pictures import random_pictures, sort_into
from tests.runs import change_config_file, summary_of
from tests.weights import HAND_SHAPES, SIZE, narrow_config, random_weights
from training.network import make_network
from workdir import settings


def test_eval_agrees_with_the_summary_of_the_run(run: Run, workdir: Path) -> None:
    summary = summary_of(workdir)
    for split in ("train", "val", "test"):
        for raw, scores in ((True, summary), (False, summary["ema"])):
            flags = ["--mode=eval", f"--workdir={workdir}", f"--split={split}", "--checkpoint=last", "--json"]
            result = run(*flags, f"--raw={raw}")
            assert_succeeded(result)
            report = json.loads(result.out)
            assert report["accuracy"] == scores[split]["accuracy"]
            assert report["loss"] == pytest.approx(scores[split]["loss"], rel=1e-5)
            assert report["step"] == summary["steps"]
            assert (report["split"], report["weights"]) == (split, "raw" if raw else "ema")
            assert np.sum(report["confusion_matrix"]) == report["images"]
            assert json.loads((workdir / f"eval_{split}.json").read_text()) == report
    assert report["images"] == 12


def test_eval_prints_tables(run: Run, workdir: Path) -> None:
    result = run("--mode=eval", f"--workdir={workdir}")
    assert_succeeded(result)
    assert result.out.startswith("test split, step ")
    for part in ("accuracy", "precision", "recall", "predicted", "eval_test.json"):
        assert part in result.out


def test_eval_without_validation_images(run: Run, workdir: Path, copy: Path) -> None:
    change_config_file(copy, data={"val_fraction": 0.0})
    before = sorted(copy.iterdir())
    assert_refused(run("--mode=eval", f"--workdir={copy}", "--split=val"), "--split=val", "no validation")
    assert sorted(copy.iterdir()) == before


def test_eval_on_a_data_set_of_other_classes(run: Run, workdir: Path, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["class_names"] = list("abcdef")
    (copy / "config.json").write_text(json.dumps(config))
    assert_refused(run("--mode=eval", f"--workdir={copy}"), "its classes are 0, 1", "trained on a, b")


def test_eval_that_cannot_write_has_printed_its_scores(run: Run, workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy", ignore=shutil.ignore_patterns("eval_*")))
    (copy / "eval_test.json").mkdir()
    result = run("--mode=eval", f"--workdir={copy}")
    assert result.code == 2
    assert "accuracy" in result.out
    assert f"{copy / 'eval_test.json'}: cannot be written" in result.err


def test_eval_on_other_training_images_of_the_same_name(
    run: Run, workdir: Path, copy: Path, signs_dir: Path
) -> None:
    change_config_file(copy, data={"dir": str(signs_dir)})
    assert run("--mode=eval", f"--workdir={copy}").code == 0
    with h5py.File(signs_dir / "train_signs.h5", "r+") as file:
        file["train_set_x"][0, 0, 0, 0] ^= 1
    for mode in ("eval", "report", "probe"):
        result = run(f"--mode={mode}", f"--workdir={copy}")
        assert_refused(result, "data set signs: its images are not those", str(copy), "SIGNS_DIR")
    as_other = [DEFAULT_CONFIG, f"--config.data.dir={signs_dir}"]
    assert run("--mode=eval", f"--workdir={copy}", *as_other).code == 0


def test_eval_on_a_data_set_that_the_run_was_not_trained_on(run: Run, workdir: Path) -> None:
    rendered = [DEFAULT_CONFIG, "--config.data.name=rendered", "--config.data.test_size=18"]
    result = run("--mode=eval", f"--workdir={workdir}", *rendered, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert json.loads((workdir / "eval_rendered_test.json").read_text()) == report
    hands = [render(i % 6, i, seed=0, stream=TEST) for i in range(18)]
    labels = [answer.label for answer in Classifier.load(workdir).predict(hands)]
    assert report["accuracy"] == pytest.approx(
        np.mean([label == str(i % 6) for i, label in enumerate(labels)])
    )
    assert (report["images"], report["data"]["name"]) == (18, "rendered")
    assert "without_twins" not in report
    prepared = json.loads((workdir / "config.json").read_text())["config"]["data"]
    assert all(report["data"][name] == prepared[name] for name in PREPARATION)
    for field in ("data.standardize=image", "data.crop=0.5", "seed=1"):
        refused = run("--mode=eval", f"--workdir={workdir}", *rendered, f"--config.{field}")
        assert_refused(refused, f"--config.{field.partition('=')[0]}", "from the run")
    for field in ("data.sampling=balanced", "data.loader_processes=2", "data.rendered_share=0.5"):
        refused = run("--mode=eval", f"--workdir={workdir}", *rendered, f"--config.{field}")
        assert_refused(refused, f"--config.{field.partition('=')[0]}: is for training")
    refused = run("--mode=eval", f"--workdir={workdir}", *rendered, "--split=val")
    assert_refused(refused, "--split=val: the data of --config have no validation images; expected")
    table = run("--mode=eval", f"--workdir={workdir}", *rendered)
    assert table.out.startswith("test split of rendered, step")
    assert_refused(
        run("--mode=eval", f"--workdir={workdir}", *rendered, "--config.data.image_size=32"),
        "config.data.image_size=32",
        "64",
    )


def test_eval_on_a_folder_of_some_of_the_classes(run: Run, workdir: Path, tmp_path: Path) -> None:
    hands = [render(label, 6 * i + label, seed=0, stream=TEST) for i in range(6) for label in (5, 2)]
    folder = sort_into(tmp_path / "hands", hands, ["5", "2"] * 6)
    fields = [f"data.dir={folder}", "data.image_size=64", "data.test_fraction=0", "data.val_fraction=0"]
    flags = [f"--workdir={workdir}", "--config=configs/folder.py", *(f"--config.{field}" for field in fields)]
    report = json.loads(run("--mode=eval", *flags, "--split=train", "--json").out)
    answers = [answer.label for answer in Classifier.load(workdir).predict(hands)]
    confusion = np.zeros((6, 6), int)
    np.add.at(confusion, ([5, 2] * 6, [int(answer) for answer in answers]), 1)
    assert report["confusion_matrix"] == confusion.tolist()
    (folder / "2").rename(folder / "two")
    refused = run("--mode=eval", *flags, "--split=train")
    assert refused.code == 2
    assert "its classes are 5, two, but the run was trained on 0, 1, 2" in refused.err.splitlines()[-1]


def test_other_images_are_prepared_as_those_of_the_run(run: Run, copy: Path, tmp_path: Path) -> None:
    change_config_file(copy, data={"fit": "pad"})
    hands = [render(i % 6, i, seed=0, stream=TEST)[16:48] for i in range(12)]  # twice as wide as high
    folder = sort_into(tmp_path / "hands", hands, [str(i % 6) for i in range(12)])
    fields = [f"data.dir={folder}", "data.image_size=64", "data.test_fraction=0", "data.val_fraction=0"]
    flags = [f"--workdir={copy}", "--config=configs/folder.py", *(f"--config.{field}" for field in fields)]
    report = json.loads(run("--mode=eval", *flags, "--split=train", "--json").out)
    confusion = np.zeros((6, 6), int)
    answers = Classifier.load(copy).predict(sorted(folder.rglob("*.png")))
    for answer in answers:
        confusion[int(Path(answer.path).parent.name), int(answer.label)] += 1
    assert report["confusion_matrix"] == confusion.tolist()
    assert report["data"]["fit"] == "pad"


@pytest.mark.parametrize("store_size", [0, 80])
def test_files_that_a_run_was_trained_on_are_not_evaluated_as_other_data(
    run: Run, copy: Path, tmp_path: Path, store_size: int
) -> None:
    """They are not where a picture was added, or splits are drawn by another seed."""
    hands = [render(i % 6, i, seed=0, stream=TEST) for i in range(36)]
    names = [str(i % 6) for i in range(36)]
    folder = sort_into(tmp_path / "hands", hands, names)
    config, class_names = settings.load(copy)
    config.augment.resized_crop = 0.5  # which a store_size needs
    config.data.update(name="folder", dir=str(folder), store_size=store_size, test_fraction=0.2)
    dataset = datasets.load(config.data)
    sources = settings.Sources(dataset.train.digest(), image_table(dataset))
    settings.save(config, class_names, copy, sources)
    fields = {"data.image_size": 64, "data.val_fraction": 0.2, "data.test_fraction": 0.2}
    flags = ["--mode=eval", f"--workdir={copy}", "--config=configs/folder.py", *flags_of(fields)]
    assert run(*flags, f"--config.data.dir={folder}").code == 0, "the images that it held out"
    moved = shutil.copytree(folder, tmp_path / "moved")
    for place in (folder, moved):
        refused = run(*flags, f"--config.data.dir={place}", "--config.data.split_seed=1")
        assert (refused.code, refused.out) == (2, "")
        line = refused.err.splitlines()[-1]
        assert line.startswith("error: --split=test: the run was trained on ")
        assert "of the 6 images, such as " in line
    others = sort_into(tmp_path / "others", [hand[::-1] for hand in hands], names)
    assert run(*flags, f"--config.data.dir={others}", "--config.data.split_seed=1").code == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_rendered_hands_that_a_run_may_have_seen_are_not_evaluated(
    run: Run, workdir: Path, copy: Path, split: str
) -> None:
    """Their accuracy would be taken for that on hands that the run has not seen."""
    change_config_file(copy, data={"rendered_size": 6, "rendered_share": 0.5})
    hands = ["--config.data.name=rendered", "--config.data.train_size=12", "--config.data.test_size=6"]
    flags = ["--mode=eval", DEFAULT_CONFIG, *hands, "--config.data.val_fraction=0.5", f"--split={split}"]
    assert_refused(run(*flags, f"--workdir={copy}"), f"--split={split}", "--split=test")
    assert run(*flags, f"--workdir={workdir}").code == 0


def test_eval_under_corruptions(run: Run, workdir: Path) -> None:
    result = run("--mode=eval", "--corruptions=extra", "--json", f"--workdir={workdir}")
    assert_succeeded(result)
    report = json.loads(result.out)
    assert json.loads((workdir / "eval_test_extra_corruptions.json").read_text()) == report
    assert [len(row) for row in report["corruptions"].values()] == [5] * 4
    plain = json.loads(run("--mode=eval", "--json", f"--workdir={workdir}").out)
    assert report["clean"] == plain["accuracy"]
    assert (report["split"], report["step"], report["weights"]) == ("test", plain["step"], "ema")


def test_eval_prints_every_seed_the_mean_and_the_ensemble(run: Run, seeds_workdir: Path) -> None:
    result = run("--mode=eval", f"--workdir={seeds_workdir}")
    assert_succeeded(result)
    stored = json.loads((seeds_workdir / "eval_test.json").read_text())
    table = result.out.partition("\n\nensemble: ")[0]
    rows = {line.split("  ")[0]: line for line in table.splitlines()}
    for seed in ("7", "2"):
        alone = run("--mode=eval", f"--workdir={seeds_workdir / f'seed_{seed}'}", "--json")
        assert json.loads(alone.out)["accuracy"] == stored["seeds"][seed]["accuracy"]
        assert f"{stored['seeds'][seed]['loss']:.4f}" in rows[seed]
    mean, std = stored["mean"]["loss"], stored["std"]["loss"]
    assert mean == pytest.approx(np.mean([stored["seeds"][seed]["loss"] for seed in "72"]))
    assert f"{mean:.4f} ± {std:.4f}" in rows["mean ± std"]
    assert f"{stored['ensemble']['loss']:.4f}" in rows["ensemble"]
    assert "ensemble: accuracy" in result.out
    result = run("--mode=eval", f"--workdir={seeds_workdir}", "--json")
    assert json.loads(result.out) == stored


# Folders of images

NAMES, SYNSETS = tuple(imagenet.classes().values()), tuple(imagenet.classes())
# The published protocol in a smaller size: 64 of 72.
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def ten_crops_of_the_whole(picture: np.ndarray) -> np.ndarray:
    """Returns ten crops, cut after the whole picture was resized, its shorter side to 72."""
    height, width, _ = picture.shape
    shorter = min(height, width)
    whole = Image.fromarray(picture).resize((width * 72 // shorter, height * 72 // shorter), Image.BICUBIC)
    right, bottom = whole.width - SIZE, whole.height - SIZE
    places = [(round(right / 2), round(bottom / 2)), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    five = [whole.crop((x, y, x + SIZE, y + SIZE)) for x, y in places]
    return np.stack([*map(np.array, five), *(np.array(square)[:, ::-1] for square in five)])


def expected_scores(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns probabilities [N, 1000] of one crop, and the mean of ten, computed in another way."""
    config = narrow_config()
    config.data.update({"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)})
    network, weights = make_network(config, 1000), random_weights(1000)
    squares = np.concatenate([ten_crops_of_the_whole(picture) for picture in pictures])
    normalized = ((squares / 255 - MEAN) / STD).astype(np.float32)
    logits = np.asarray(network.apply(weights, normalized, train=False)[0], np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (shares / shares.sum(-1, keepdims=True)).reshape(len(pictures), 10, 1000)
    return {"1-crop": probabilities[:, 0], "10-crop": probabilities.mean(1)}


def protocol_flags(weights_file: Path) -> list[str]:
    """Returns the flags that evaluate by the protocol of configs/imagenet.py, in its smaller size."""
    fields = {"init_from": weights_file, "data.image_size": SIZE, "data.crop": SIZE / 72}
    quick = {"model.convolution": "lax", "compilation_cache": False}
    return ["--mode=eval", f"--config={ROOT / 'configs' / 'imagenet.py'}", *flags_of(fields | quick)]


def test_top_1_and_top_5_of_one_crop_and_of_ten(run: Run, weights_file: Path, tmp_path: Path) -> None:
    pictures = random_pictures()
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
    protocol = protocol_flags(weights_file)
    for crops, names_of_scores in ((1, ["1-crop"]), (10, ["1-crop", "10-crop"])):
        result = run(*protocol, f"--workdir={tmp_path / 'out'}", "--json", f"--crops={crops}", folder)
        assert_succeeded(result)
        report = json.loads(result.out)
        assert report["folder"] == str(folder)
        assert (report["images"], report["unreadable"]) == (11, 0)
        assert (report["image_size"], report["crop"]) == (SIZE, SIZE / 72)
        assert [name for name in report if name.endswith("-crop")] == names_of_scores
        for name in names_of_scores:
            for k in (1, 5):
                right = sum(rank < k for rank in ranks[name])
                assert report[name][f"top{k}_accuracy"] == pytest.approx(right / 11)
                assert report[name][f"top{k}_error"] == pytest.approx(1 - right / 11)
        file = "eval_folder.json" if crops == 1 else "eval_folder_10_crops.json"
        assert json.loads((tmp_path / "out" / file).read_text()) == report


def test_eval_of_weights_alone_prints_a_table(
    run: Run, weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sort_into(tmp_path / "val", random_pictures(2), ["tench", "n01443537"])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = run("--mode=eval", f"--weights={weights_file}", folder)
    assert_succeeded(result)
    assert result.out.startswith(f"{folder}: 2 images, 2 classes\n")
    assert "top-5 error" in result.out
    assert "1-crop" in result.out
    assert not list((tmp_path / "here").iterdir())


def test_eval_of_a_run_on_a_folder(run: Run, untrained_run: Path, tmp_path: Path) -> None:
    pictures = random_pictures()
    folder = sort_into(tmp_path / "photos", pictures, [HAND_SHAPES[i % 3] for i in range(11)])
    result = run("--mode=eval", f"--workdir={untrained_run}", folder)
    assert_succeeded(result)
    assert f"written: {untrained_run / 'eval_folder.json'}" in result.out
    report = json.loads((untrained_run / "eval_folder.json").read_text())
    assert (report["workdir"], report["step"], report["weights"]) == (str(untrained_run), 0, "raw")
    predicted = [prediction.label for prediction in load_pretrained(untrained_run).predict(pictures)]
    right = [label == HAND_SHAPES[i % 3] for i, label in enumerate(predicted)]
    assert report["1-crop"]["top1_accuracy"] == np.mean(right)
    assert report["1-crop"]["top5_accuracy"] == 1


def test_ten_crops_of_a_network_that_takes_none_are_refused_once(
    run: Run, weights_file: Path, tmp_path: Path
) -> None:
    folder = sort_into(tmp_path / "photos", random_pictures(2), ["n01440764"] * 2)
    flags = [*protocol_flags(weights_file), "--config.data.fit=pad", "--crops=10", folder]
    assert_refused(
        run(*flags), "--crops=10: this network takes pictures with fit=pad, and crops need fit=crop"
    )


def test_unreadable_images_are_reported_and_the_others_evaluated(
    run: Run, untrained_run: Path, tmp_path: Path
) -> None:
    folder = sort_into(tmp_path / "photos", random_pictures(2), ["fist", "palm"])
    (folder / "palm" / "bad.jpg").write_text("no image")
    result = run("--mode=eval", f"--workdir={untrained_run}", "--json", "--crops=10", folder)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "bad.jpg: is not an image" in result.err
    report = json.loads(result.out)
    assert (report["images"], report["unreadable"]) == (2, 1)
    for file in folder.glob("*/*.png"):
        file.write_bytes(b"")
    result = run("--mode=eval", f"--workdir={untrained_run}", folder)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].endswith("none of its 3 images can be read; expected some that can")
