"""The command line: what each mode prints and writes, and how it refuses what it cannot use."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import h5py
import jax
import numpy as np
import pytest
from PIL import Image

import kept_program
import main
from configs import default
from datasets.rendered import TEST, render
from errors import UserError
from kept_program import KeptProgram
from lr_find import suggest
from resnet import Classifier
from settings import PREPARATION

ROOT = Path(__file__).parent.parent
CONFIG = f"--config={ROOT / 'configs' / 'default.py'}"
SMALL = [
    CONFIG,
    "--config.num_epochs=2",
    "--config.batch_size=12",
    "--config.model.depth=18",
    "--config.model.width=4",
    "--config.model.convolution=lax",
    "--config.compilation_cache=false",
]


pytestmark = pytest.mark.usefixtures("restored_environment")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path) -> Path:
    """A short run with a validation split; tests leave it as it is."""
    workdir = tmp_path_factory.mktemp("modes") / "run"
    flags = [
        f"--workdir={workdir}",
        f"--config.data.dir={shared_signs_dir}",
        "--config.data.val_fraction=0.2",
    ]
    assert main.run(["main.py", *SMALL, *flags]) == 0
    return workdir


class Result(NamedTuple):
    """The exit code and what went to the terminal."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        capfd.readouterr()
        # ml_collections runs a second config file on top of the first one's names.
        sys.modules.pop("config_config", None)
        code = main.run(["main.py", *map(str, arguments)])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def pictures(tmp_path: Path, shared_signs_dir: Path) -> Path:
    """A folder of eleven pictures of various sizes: more than one batch."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with h5py.File(shared_signs_dir / "test_signs.h5") as file:
        for i, image in enumerate(file["test_set_x"][:11]):
            Image.fromarray(image).resize((64 + 3 * i, 90)).save(folder / f"{i:02d}.png")
    return folder


def assert_refused(result: Result, *parts: str) -> None:
    assert result.code == 2
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_eval_agrees_with_the_summary_of_the_run(run: Run, workdir: Path) -> None:
    summary = json.loads((workdir / "summary.json").read_text())
    for split in ("train", "val", "test"):
        for raw, measured in ((True, summary), (False, summary["ema"])):
            flags = ["--mode=eval", f"--workdir={workdir}", f"--split={split}", "--checkpoint=last", "--json"]
            result = run(*flags, f"--raw={raw}")
            assert (result.code, result.err) == (0, "")
            report = json.loads(result.out)
            assert report["accuracy"] == measured[split]["accuracy"]
            assert report["loss"] == pytest.approx(measured[split]["loss"], rel=1e-5)
            assert report["step"] == summary["steps"]
            assert (report["split"], report["weights"]) == (split, "raw" if raw else "ema")
            assert np.sum(report["confusion_matrix"]) == report["images"]
            assert json.loads((workdir / f"eval_{split}.json").read_text()) == report
    assert report["images"] == 12


def test_eval_prints_tables(run: Run, workdir: Path) -> None:
    result = run("--mode=eval", f"--workdir={workdir}")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("test split, step ")
    for part in ("accuracy", "precision", "recall", "predicted", "eval_test.json"):
        assert part in result.out


def test_eval_without_validation_images(run: Run, workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["config"]["data"]["val_fraction"] = 0.0
    (copy / "config.json").write_text(json.dumps(config))
    before = sorted(copy.iterdir())
    assert_refused(run("--mode=eval", f"--workdir={copy}", "--split=val"), "--split=val", "no validation")
    assert sorted(copy.iterdir()) == before


def test_eval_on_a_data_set_of_other_classes(run: Run, workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["class_names"] = list("abcdef")
    (copy / "config.json").write_text(json.dumps(config))
    assert_refused(run("--mode=eval", f"--workdir={copy}"), "its classes are 0, 1", "trained on a, b")


def test_eval_that_cannot_write_has_told_what_it_measured(run: Run, workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy", ignore=shutil.ignore_patterns("eval_*")))
    (copy / "eval_test.json").mkdir()
    result = run("--mode=eval", f"--workdir={copy}")
    assert result.code == 2
    assert "accuracy" in result.out
    assert f"{copy / 'eval_test.json'}: cannot be written" in result.err


def test_eval_on_other_training_images_of_the_same_name(
    run: Run, workdir: Path, tmp_path: Path, signs_dir: Path
) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["config"]["data"]["dir"] = str(signs_dir)
    (copy / "config.json").write_text(json.dumps(config))
    assert run("--mode=eval", f"--workdir={copy}").code == 0
    with h5py.File(signs_dir / "train_signs.h5", "r+") as file:
        file["train_set_x"][0, 0, 0, 0] ^= 1
    for mode in ("eval", "report", "probe"):
        result = run(f"--mode={mode}", f"--workdir={copy}")
        assert_refused(result, "data set signs: its training images are not those", str(copy), "SIGNS_DIR")
    as_other = [CONFIG, f"--config.data.dir={signs_dir}"]
    assert run("--mode=eval", f"--workdir={copy}", *as_other).code == 0


def test_eval_on_a_data_set_that_the_run_was_not_trained_on(run: Run, workdir: Path) -> None:
    rendered = [CONFIG, "--config.data.name=rendered", "--config.data.test_size=18"]
    result = run("--mode=eval", f"--workdir={workdir}", *rendered, "--json")
    assert result.code == 0
    measured = json.loads(result.out)
    assert json.loads((workdir / "eval_rendered_test.json").read_text()) == measured
    hands = [render(i % 6, i, seed=0, stream=TEST) for i in range(18)]
    labels = [answer.label for answer in Classifier.load(workdir).predict(hands)]
    assert measured["accuracy"] == pytest.approx(
        np.mean([label == str(i % 6) for i, label in enumerate(labels)])
    )
    assert (measured["images"], measured["data"]["name"]) == (18, "rendered")
    assert "without_twins" not in measured
    prepared = json.loads((workdir / "config.json").read_text())["config"]["data"]
    assert all(measured["data"][name] == prepared[name] for name in PREPARATION)
    for field in ("data.standardize=image", "data.crop=0.5", "seed=1"):
        refused = run("--mode=eval", f"--workdir={workdir}", *rendered, f"--config.{field}")
        assert_refused(refused, f"--config.{field.partition('=')[0]}", "from the run")
    table = run("--mode=eval", f"--workdir={workdir}", *rendered)
    assert table.out.startswith("test split of rendered, step")
    assert_refused(
        run("--mode=eval", f"--workdir={workdir}", *rendered, "--config.data.image_size=32"),
        "config.data.image_size=32",
        "64",
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_rendered_hands_that_a_run_may_have_seen_are_not_measured(
    run: Run, workdir: Path, tmp_path: Path, split: str
) -> None:
    """For who thinks of them as of hands that it has not seen."""
    shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["data"] |= {"rendered_size": 6, "rendered_share": 0.5}
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    hands = ["--config.data.name=rendered", "--config.data.train_size=12", "--config.data.test_size=6"]
    flags = ["--mode=eval", CONFIG, *hands, "--config.data.val_fraction=0.5", f"--split={split}"]
    assert_refused(run(*flags, f"--workdir={tmp_path / 'run'}"), f"--split={split}", "--split=test")
    assert run(*flags, f"--workdir={workdir}").code == 0


def test_predict_prints_a_table_in_the_order_of_the_files(run: Run, workdir: Path, pictures: Path) -> None:
    result = run("--mode=predict", f"--workdir={workdir}", pictures / "03.png", pictures)
    assert (result.code, result.err) == (0, "")
    header, _, *rows = result.out.splitlines()
    assert header.split() == ["path", "label", *"012345"]
    expected = Classifier.load(workdir).predict([pictures / "03.png", *sorted(pictures.iterdir())])
    assert len(rows) == 12
    for row, prediction in zip(rows, expected, strict=True):
        path, label, *probabilities = row.split()
        assert (path, label) == (prediction.path, prediction.label)
        assert probabilities == [f"{p:.4f}" for p in prediction.probabilities.values()]


def test_predict_json_gives_an_object_a_line(run: Run, workdir: Path, pictures: Path) -> None:
    result = run("--mode=predict", "--json", f"--workdir={workdir}", pictures)
    assert (result.code, result.err) == (0, "")
    found = [json.loads(line) for line in result.out.splitlines()]
    expected = Classifier.load(workdir).predict(sorted(pictures.iterdir()))
    assert [line["path"] for line in found] == [prediction.path for prediction in expected]
    for line, prediction in zip(found, expected, strict=True):
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


def test_predict_with_nothing_to_answer(run: Run, workdir: Path, tmp_path: Path) -> None:
    result = run("--mode=predict", f"--workdir={workdir}", tmp_path / "missing.jpg")
    assert_refused(result, "missing.jpg", "no such file")


def test_predict_takes_a_name_that_is_not_text(run: Run, workdir: Path, pictures: Path) -> None:
    odd = os.fsdecode(os.fsencode(pictures) + b"/\xff.png")
    shutil.copy(pictures / "00.png", odd)
    result = run("--mode=predict", f"--workdir={workdir}", odd)
    assert (result.code, result.err) == (0, "")


def test_summary_of_a_config_and_of_a_run(run: Run, workdir: Path, tmp_path: Path) -> None:
    by_config = run("--mode=summary", *SMALL)
    by_workdir = run("--mode=summary", f"--workdir={workdir}")
    assert by_config == by_workdir
    assert by_config.code == 0
    parameters = json.loads((workdir / "summary.json").read_text())["parameters"]
    assert by_config.out.splitlines()[-1].split()[:2] == ["total", f"{parameters:,}"]


def test_show_batch_writes_a_picture_into_the_workdir_alone(
    run: Run, shared_signs_dir: Path, tmp_path: Path
) -> None:
    flags = ["--mode=show_batch", *SMALL, f"--config.data.dir={shared_signs_dir}"]
    folder = tmp_path / "run"
    result = run(*flags, f"--workdir={folder}")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"written: {folder / 'show_batch.png'}\n"
    assert Image.open(folder / "show_batch.png").width > 8 * 64
    assert [path.name for path in folder.iterdir()] == ["show_batch.png"]
    # Pictures of photographs must not land in the project's own folder by default.
    assert run(*flags).code == 2


class PageReader(HTMLParser):
    """What a browser would fetch, and the text that it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_training_ends_with_a_report_that_stands_alone(workdir: Path) -> None:
    page = PageReader()
    source = (workdir / "report" / "index.html").read_text()
    page.feed(source)
    assert "url(" not in source
    assert "@import" not in source
    pictures = [base64.b64decode(uri.removeprefix("data:image/png;base64,")) for uri in page.fetched]
    beside = {file.read_bytes() for file in (workdir / "report").glob("*.png")}
    assert set(pictures) == beside
    assert len(beside) >= 9
    for picture in pictures:
        Image.open(io.BytesIO(picture)).load()
    summary = json.loads((workdir / "summary.json").read_text())
    assert f"{summary['ema']['test']['accuracy']:.4f}" in page.text
    for part in ("Grad-CAM", "ECE", "optimizer.learning_rate", summary["versions"]["jax"], "near twin"):
        assert part in page.text


def test_report_anew_of_another_split(run: Run, workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    (copy / "report" / "stale.png").write_bytes(b"")
    summary = json.loads((copy / "summary.json").read_text())
    # That of an earlier end, and none yet, as while it still trains.
    for older in (json.dumps({**summary, "steps": summary["steps"] - 1}), "not yet"):
        (copy / "summary.json").write_text(older)
        result = run("--mode=report", "--split=val", f"--workdir={copy}")
        assert result == (0, f"written: {copy / 'report' / 'index.html'}\n", "")
        assert "images per second" not in (copy / "report" / "index.html").read_text()
    assert not (copy / "report" / "stale.png").exists()
    assert "val split" in (copy / "report" / "index.html").read_text()
    assert_refused(run("--mode=report", f"--workdir={tmp_path / 'no'}"), "no trained run here")
    assert_refused(run("--mode=report", CONFIG, f"--workdir={copy}"), "leave out --config")


def test_report_of_a_network_of_three_stages(run: Run, tmp_path: Path, shared_signs_dir: Path) -> None:
    flags = [*SMALL, f"--config.data.dir={shared_signs_dir}", f"--workdir={tmp_path}"]
    result = run(*flags, "--config.num_epochs=1", "--config.model.depth=16")
    assert (result.code, result.err) == (0, "")
    assert "Grad-CAM" in (tmp_path / "report" / "index.html").read_text()


def test_report_that_fails_loses_nothing(
    run: Run, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_signs_dir: Path
) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    shutil.rmtree(copy / "report")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("report.page.write_report", fail)
    flags = [*SMALL, f"--config.data.dir={shared_signs_dir}", "--config.data.val_fraction=0.2"]
    result = run(*flags, f"--workdir={copy}")
    assert result.code == 0
    assert "test accuracy" in result.out
    assert len(result.err.splitlines()) == 1
    for part in ("ZeroDivisionError: oh", f"--mode=report --workdir={copy}"):
        assert part in result.err
    assert (copy / "summary.json").read_bytes() == (workdir / "summary.json").read_bytes()


def test_report_shows_corruptions_of_the_same_weights_alone(run: Run, workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    picture = copy / "report" / "corruptions.png"
    assert run("--mode=eval", "--corruptions=standard", f"--workdir={copy}").code == 0
    assert run("--mode=report", f"--workdir={copy}").code == 0
    assert Image.open(picture).height > 400
    assert run("--mode=report", "--raw", f"--workdir={copy}").code == 0
    assert not picture.exists()


def test_eval_under_corruptions(run: Run, workdir: Path) -> None:
    result = run("--mode=eval", "--corruptions=extra", "--json", f"--workdir={workdir}")
    assert (result.code, result.err) == (0, "")
    measured = json.loads(result.out)
    assert json.loads((workdir / "eval_test_extra_corruptions.json").read_text()) == measured
    assert [len(row) for row in measured["corruptions"].values()] == [5] * 4
    plain = json.loads(run("--mode=eval", "--json", f"--workdir={workdir}").out)
    assert measured["clean"] == plain["accuracy"]
    assert (measured["split"], measured["step"], measured["weights"]) == ("test", plain["step"], "ema")


def test_audit_of_a_config_and_of_a_run(
    run: Run, workdir: Path, shared_signs_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "audit"
    result = run("--mode=audit", CONFIG, f"--config.data.dir={shared_signs_dir}", f"--workdir={folder}")
    assert (result.code, result.err) == (0, "")
    for part in ("Images of each class", "Nearest neighbour", "audit.json"):
        assert part in result.out
    found = json.loads((folder / "audit.json").read_text())
    assert list(found["classes"]) == ["train", "test"]
    of_run = json.loads(run("--mode=audit", "--json", f"--workdir={workdir}").out)
    assert list(of_run["classes"]) == ["train", "val", "test"]
    assert of_run["nearest_neighbour"]["val"]["images"] == 12


def test_lr_find_writes_its_curve(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = np.geomspace(1e-5, 1, 50)
    for losses, expected in (
        (np.abs(np.log10(rates) + 2) + 1, "suggestion: --config.optimizer.learning_rate=0.012"),
        (np.full(50, 1.8), "no suggestion"),
    ):
        found = {"learning_rates": rates.tolist(), "losses": losses.tolist(), **suggest(rates, losses)}
        monkeypatch.setattr("lr_find.find_learning_rate", lambda config, found=found: found)
        folder = tmp_path / expected[:2]
        result = run("--mode=lr_find", CONFIG, f"--workdir={folder}")
        assert (result.code, result.err) == (0, "")
        assert expected in result.out
        assert json.loads((folder / "lr_find.json").read_text()) == found
        assert Image.open(folder / "lr_find.png").width > 400
        assert sorted(file.name for file in folder.iterdir()) == ["lr_find.json", "lr_find.png"]


def test_training_step_is_prefetched_where_training_looks_for_it(
    run: Run, tmp_path: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for = []

    def stop(*_: object) -> None:
        raise UserError("not kept")

    monkeypatch.setattr(kept_program, "_read", lambda file, sharding: looked_for.append(file))
    monkeypatch.setattr(KeptProgram, "_trace", stop)
    flags = [*SMALL, f"--config.data.dir={shared_signs_dir}", f"--workdir={tmp_path / 'run'}"]
    assert_refused(run(*flags), "not kept")
    prefetched, trained = looked_for
    assert prefetched == trained is not None


def test_step_of_seeds_together_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = default.get_config()
    config.seeds, config.seeds_together = (0, 1, 2), "yes"
    # As on three devices, of which each has a seed of its own, and no part of a batch.
    monkeypatch.setattr("input_pipeline.make_mesh", lambda batch_size: 1 / 0)
    main.prefetch_training_step(config)
    config.seeds = ()
    with pytest.raises(ZeroDivisionError):
        main.prefetch_training_step(config)


def test_help_names_modes_and_flags(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for part in ("--mode=predict", "--workdir", "--checkpoint", "configs/default.py"):
        assert part in result.out


CONFIG_FILES = {
    "syntax.py": ("def get_config(:", "SyntaxError"),
    "nothing.py": ("x = 1", "has no get_config()"),
    "none.py": ("def get_config():\n    return None", "returns NoneType, expected a ConfigDict"),
    "dictionary.py": ("def get_config():\n    return {}", "returns dict"),
    "raises.py": ("def get_config():\n    raise ValueError('oh')", "ValueError: oh"),
    "imports.py": ("import no_such_module", "No module named 'no_such_module'"),
    "binary.py": ("\0\0", "does not run"),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_config_files_that_cannot_be_used(run: Run, tmp_path: Path, name: str) -> None:
    content, reason = CONFIG_FILES[name]
    (tmp_path / name).write_text(content)
    result = run(f"--config={tmp_path / name}", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, f"config file {tmp_path / name}", reason)
    assert not (tmp_path / "run").exists()


def test_config_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    assert_refused(run(f"--config={tmp_path / 'no.py'}", f"--workdir={workdir}"), "no.py: no such file")
    assert_refused(run("--config", tmp_path / "no.py", "--workdir", workdir), "no.py: no such file")
    assert_refused(run(f"--config={tmp_path}", f"--workdir={workdir}"), "cannot be read")
    assert_refused(run(f"--workdir={workdir}"), "--config is missing")
    assert not workdir.exists()


BAD_FLAGS = {
    "--config.optimizer.learning_rat=1": "did you mean config.optimizer.learning_rate?",
    "--config.learning_rate=1": "did you mean config.optimizer.learning_rate?",
    "--config.model=18": "config.model: no such field",
    "--noconfig.gpu.prealocate": "did you mean config.gpu.preallocate?",
    "--config.batch_size=many": "config.batch_size='many': expected a whole number",
    "--config.batch_size=1.5": "config.batch_size='1.5': expected a whole number",
    "--config.gpu.preallocate=maybe": "expected true or false",
    "--config.gpu.memory_fraction=1.5": "config.gpu.memory_fraction=1.5",
    "--config.data.mean=1": "expected 3 numbers",
    "--config.model.depth=42": "expected one of 16, 18, 20",
    "--config.batch_size=61": "larger than the 60 training images",
    "--config.data.image_size=31": "at least 32 pixels",
    "--config.data.dir=/no/such/folder": "/no/such/folder",
    "--batch=3": "batch",
    "--mode=evl": "train|eval|report|predict",
    "stray": "stray: not a flag",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_flags_that_cannot_be_used(run: Run, tmp_path: Path, shared_signs_dir: Path, flag: str) -> None:
    workdir = tmp_path / "run"
    result = run(*SMALL, f"--config.data.dir={shared_signs_dir}", f"--workdir={workdir}", flag)
    assert_refused(result, BAD_FLAGS[flag])
    assert not workdir.exists()


def test_workdir_that_cannot_be_written(run: Run, tmp_path: Path, shared_signs_dir: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for mode in ("train", "show_batch"):
        flags = [f"--mode={mode}", *SMALL, f"--config.data.dir={shared_signs_dir}"]
        assert_refused(run(*flags, f"--workdir={file / 'run'}"), str(file), "cannot be written")
    assert file.read_text() == "mine"


def test_paths_that_are_too_long(run: Run, tmp_path: Path, shared_signs_dir: Path) -> None:
    path = tmp_path / ("a" * 300)
    train = run(*SMALL, f"--config.data.dir={shared_signs_dir}", f"--workdir={path}")
    assert_refused(train, str(path), "cannot be written")
    assert_refused(run("--mode=predict", f"--weights={path}", "a.jpg"), str(path))
    assert_refused(run("--mode=predict", f"--workdir={path}", "a.jpg"), str(path))


def test_batch_that_does_not_divide_over_the_devices(
    run: Run, tmp_path: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1] * 5)
    result = run(*SMALL, f"--config.data.dir={shared_signs_dir}", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, "config.batch_size=12", "5 devices")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", [["--mode=eval"], ["--mode=predict", "a.jpg"], ["--mode=summary"]])
def test_modes_without_a_trained_run(run: Run, tmp_path: Path, mode: list[str]) -> None:
    flag, *rest = mode
    assert_refused(run(flag, f"--workdir={tmp_path}", *rest), "no trained run here")
    assert_refused(run(flag, *rest), "--workdir is missing")
    assert list(tmp_path.iterdir()) == []


def test_modes_of_a_run_take_no_config(run: Run, workdir: Path) -> None:
    assert_refused(run("--mode=report", CONFIG, f"--workdir={workdir}"), "leave out --config")
    assert_refused(run("--mode=eval", f"--workdir={workdir}", "--config.seed=1"), "needs a --config")
    assert_refused(run("--mode=predict", f"--workdir={workdir}"), "needs images")


def test_run_whose_checkpoints_are_gone(run: Run, workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    assert_refused(run("--mode=predict", f"--workdir={tmp_path}", "a.jpg"), "no checkpoints")


def test_terminal_and_settings_of_a_fresh_process(workdir: Path, pictures: Path) -> None:
    command = [sys.executable, "main.py", "--mode=predict", f"--workdir={workdir}", pictures / "00.png"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 3


def test_output_that_nobody_reads_any_more(workdir: Path, pictures: Path) -> None:
    """As with `| head -1`."""
    command = [sys.executable, "main.py", "--mode=predict", f"--workdir={workdir}", "--json", pictures]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_jax_starts_only_after_its_settings() -> None:
    code = "import sys, main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_training_does_not_wait_for_what_the_report_needs() -> None:
    code = (
        "import sys, modes, train; sys.exit(bool({'matplotlib', 'jinja2', 'scipy.ndimage'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
