"""`--mode=predict`: labels of pictures, by a run, by several seeds, and by a file of weights."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.rendered.render import TEST, render, render_room
from evaluation.no_sign import REJECTED
from evaluation.trained_run import load_own_splits
from resnet import Classifier, imagenet, load_pretrained
from tests.command_line import Run, assert_refused, assert_succeeded
from tests.pictures import random_pictures, sort_into
from tests.weights import random_weights, save_in_torchvision

NAMES, SYNSETS = tuple(imagenet.classes().values()), tuple(imagenet.classes())


def test_predict_prints_a_table_in_the_order_of_the_files(run: Run, workdir: Path, pictures: Path) -> None:
    result = run("--mode=predict", f"--workdir={workdir}", pictures / "03.png", pictures)
    assert_succeeded(result)
    header, _, *rows = result.out.splitlines()
    assert header.split() == ["path", "label", *"012345"]
    expected = Classifier.load(workdir).predict([pictures / "03.png", *sorted(pictures.iterdir())])
    assert len(rows) == 12
    for row, prediction in zip(rows, expected, strict=True):
        path, label, *probabilities = row.split()
        assert (path, label) == (prediction.path, prediction.label)
        assert probabilities == [f"{p:.4f}" for p in prediction.probabilities.values()]


def test_without_a_run_the_network_of_the_project_answers(run: Run, tmp_path: Path) -> None:
    Image.fromarray(render(3, 1, 0, stream=TEST, variety=0.3, image_size=200)).save(tmp_path / "hand.png")
    result = run("--mode=predict", "--json", tmp_path / "hand.png")
    assert result.code == 0
    assert result.err.startswith("note: hands.onnx answers, which knows the signs 0 to 5 of a hand; ")
    assert json.loads(result.out)["label"] == "3"


def test_pictures_without_a_sign_are_named_and_on_request_labelled(run: Run, tmp_path: Path) -> None:
    Image.fromarray(render(3, 1, 0, stream=TEST, variety=0.3, image_size=200)).save(tmp_path / "hand.png")
    Image.fromarray(render_room(1, 0, image_size=128)).save(tmp_path / "room.png")
    plain = run("--mode=predict", "--json", tmp_path)
    assert re.search(r"room.png: perhaps no sign is seen, as no class reaches 0\.\d\d; --no_sign", plain.err)
    assert "hand.png" not in plain.err
    asked = run("--mode=predict", "--json", "--no_sign", tmp_path)
    answers = [[json.loads(line) for line in result.out.splitlines()] for result in (plain, asked)]
    assert [answer["label"] for answer in answers[1]] == ["3", "no sign"]
    assert [a["probabilities"] for a in answers[0]] == [a["probabilities"] for a in answers[1]]


def test_of_many_classes_no_sign_is_the_only_guess(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modes.predict.CLASSES_IN_COLUMNS", 3)
    Image.fromarray(render_room(1, 0, image_size=128)).save(tmp_path / "room.png")
    assert len(run("--mode=predict", tmp_path).out.splitlines()) == 2 + 5
    *_, row = rows = run("--mode=predict", "--no_sign", tmp_path).out.splitlines()
    assert len(rows) == 2 + 1
    assert re.fullmatch(r"\S+room.png +no sign +0\.\d+", row)


def test_the_threshold_of_a_run_is_fitted_on_its_data(run: Run, workdir: Path, pictures: Path) -> None:
    result = run("--mode=predict", "--json", "--no_sign", f"--workdir={workdir}", pictures)
    noted = re.search(
        r"'no sign' where no class reaches (0\.\d+): .* of the val images, and .* without", result.err
    )
    threshold = float(noted[1])
    about = pytest.approx(threshold, abs=5e-4)  # It is printed rounded.
    for line in map(json.loads, result.out.splitlines()):
        label, probability = line["label"], line["probability"]
        assert (label == "no sign") == (probability < threshold) or probability == about


def test_the_threshold_of_several_seeds_is_that_of_all(run: Run, seeds_workdir: Path, pictures: Path) -> None:
    result = run("--mode=predict", "--no_sign", f"--workdir={seeds_workdir}", pictures)
    [threshold] = re.findall(r"'no sign' where no class reaches (0\.\d+): ", result.err)
    splits = load_own_splits(seeds_workdir)
    signs = splits["val"] if "val" in splits else splits["train"]
    best = Classifier.load(seeds_workdir).probabilities(signs.images).max(axis=1)
    assert float(threshold) == pytest.approx(np.quantile(best, REJECTED), abs=6e-4)


def test_a_file_of_weights_has_no_threshold(run: Run, tmp_path: Path, pictures: Path) -> None:
    save_in_torchvision(random_weights(18), tmp_path / "resnet18.safetensors")
    result = run("--mode=predict", "--no_sign", f"--weights={tmp_path / 'resnet18.safetensors'}", pictures)
    assert_refused(result, "resnet18.safetensors says nothing of when no sign is seen", "expected a run")


def test_predict_json_gives_an_object_a_line(run: Run, workdir: Path, pictures: Path) -> None:
    result = run("--mode=predict", "--json", f"--workdir={workdir}", pictures)
    assert_succeeded(result)
    lines = [json.loads(line) for line in result.out.splitlines()]
    expected = Classifier.load(workdir).predict(sorted(pictures.iterdir()))
    assert [line["path"] for line in lines] == [prediction.path for prediction in expected]
    for line, prediction in zip(lines, expected, strict=True):
        assert list(line) == ["path", "label", "probability", "probabilities"]
        assert line["label"] == prediction.label
        assert line["probability"] == max(line["probabilities"].values())
        assert line["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_predict_answers_the_others_where_one_is_bad(
    run: Run, workdir: Path, pictures: Path, tmp_path: Path, json_flag: list[str]
) -> None:
    (pictures / "05.png").write_text("not an image")
    (pictures / "07.png").write_bytes(b"")
    missing = tmp_path / "missing.jpg"
    result = run("--mode=predict", f"--workdir={workdir}", *json_flag, missing, pictures)
    assert result.code == 2
    errors = result.err.splitlines()
    assert len(errors) == 3
    for line, name in zip(errors, ("missing.jpg", "05.png", "07.png"), strict=True):
        assert line.startswith("error: ")
        assert name in line
    assert [f"{i:02d}.png" in result.out for i in range(11)] == [i not in (5, 7) for i in range(11)]


def test_predict_answers_the_others_whatever_is_wrong_with_one(
    run: Run, workdir: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(pictures / "20.jpg")
    (pictures / "21.jpg").symlink_to("/proc/self/mem")
    (pictures / "22.jpg").symlink_to("/dev/zero")
    (pictures / "23.jpg").mkdir()
    (pictures / "24.jpg").symlink_to(pictures / "24.jpg")
    (pictures / "25\n.jpg").touch()
    (pictures / "26.dng").touch()
    monkeypatch.chdir(pictures)
    result = run("--mode=predict", f"--workdir={workdir}", pictures, "")
    assert result.code == 2
    errors = result.err.splitlines()
    reasons = (
        "raw pictures",
        "is a pipe",
        "output error",
        "is a device",
        "levels of",
        "is empty",
        "empty path",
    )
    assert len(errors) == len(reasons)
    for line, reason in zip(errors, reasons, strict=True):
        assert line.startswith("error: ")
        assert reason in line
    assert [f"{i:02d}.png" in result.out for i in range(11)] == [True] * 11


def test_predict_with_nothing_to_answer(run: Run, workdir: Path, tmp_path: Path) -> None:
    result = run("--mode=predict", f"--workdir={workdir}", tmp_path / "missing.jpg")
    assert_refused(result, "missing.jpg", "no such file")


def test_predict_takes_a_name_that_is_not_text(run: Run, workdir: Path, pictures: Path) -> None:
    odd = os.fsdecode(os.fsencode(pictures) + b"/\xff.png")
    shutil.copy(pictures / "00.png", odd)
    result = run("--mode=predict", f"--workdir={workdir}", odd)
    assert_succeeded(result)


def test_run_whose_checkpoints_are_gone(run: Run, workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    assert_refused(run("--mode=predict", f"--workdir={tmp_path}", "a.jpg"), "no checkpoints")


def test_predict_answers_as_the_ensemble(run: Run, seeds_workdir: Path, pictures: Path) -> None:
    shares = []
    for folder in (seeds_workdir, seeds_workdir / "seed_7", seeds_workdir / "seed_2"):
        result = run("--mode=predict", f"--workdir={folder}", "--json", pictures / "03.png")
        assert_succeeded(result)
        shares.append(list(json.loads(result.out)["probabilities"].values()))
    np.testing.assert_allclose(shares[0], np.mean(shares[1:], axis=0), rtol=1e-4)


# By a file of weights


def test_predict_with_weights_prints_the_five_likeliest(run: Run, weights_file: Path, tmp_path: Path) -> None:
    folder = sort_into(tmp_path, random_pictures(2), ["photos"] * 2) / "photos"
    expected = load_pretrained(weights_file).predict(sorted(folder.iterdir()))
    result = run("--mode=predict", f"--weights={weights_file}", folder)
    assert_succeeded(result)
    header, _, *rows = result.out.splitlines()
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
    result = run("--mode=predict", f"--weights={weights_file}", "--json", folder)
    assert_succeeded(result)
    line = json.loads(result.out.splitlines()[0])
    assert list(line) == ["path", "label", "probability", "probabilities", "top"]
    assert [guess["label"] for guess in line["top"]] == [guess.label for guess in expected[0].top()]


def test_weights_without_a_head_know_no_classes(run: Run, tmp_path: Path) -> None:
    file = save_in_torchvision(random_weights(3), tmp_path / "w.safetensors", with_head=False)
    folder = sort_into(tmp_path / "val", random_pictures(1), ["fist"])
    for mode in ("eval", "predict"):
        result = run(f"--mode={mode}", f"--weights={file}", folder)
        assert (result.code, result.out) == (2, "")
        assert "these weights have no head" in result.err
