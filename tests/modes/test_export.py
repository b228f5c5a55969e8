"""`--mode=export`: every format is read again and predicts the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from resnet import Classifier, load_pretrained
from resnet.formats import EXPORT_FORMATS, PROGRAMS
from tests.command_line import Run, assert_refused, assert_succeeded
from tests.runs import save_untrained_run, small_config

CLASSES = ("a", "b", "c")
HEADER = ["MB", "images/s", "accuracy,", "12", "test", "images", "corrupted,", "12", "images"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never trained, with settings of predictions that are not the default."""
    workdir = tmp_path_factory.mktemp("weights") / "run"
    config = small_config(test_time_flip=True, temperature=0.5, compilation_cache=False)
    return save_untrained_run(workdir, config, CLASSES)


@pytest.mark.parametrize("format", [format for format in EXPORT_FORMATS if format not in PROGRAMS])
def test_export_is_read_again(format: str, run: Run, workdir: Path) -> None:
    result = run("--mode=export", f"--workdir={workdir}", f"--format={format}")
    assert result.code == 0
    written, takes, *_ = result.out.splitlines()
    path = written.removeprefix("written: ")
    shape = "[N, 64, 64, 3]" if format in ("keras", "safetensors") else "[N, 3, 64, 64]"
    assert takes.startswith(f"its input: float32 {shape}, RGB; ")
    assert takes.endswith("; as an image and as its mirror image, of whose logits the mean is taken")
    again, original = load_pretrained(path), Classifier.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    assert again.class_names == CLASSES
    np.testing.assert_allclose(again.probabilities(images), original.probabilities(images), atol=1e-6)


@pytest.mark.parametrize(("format", "runtime"), [("onnx", "onnxruntime"), ("stablehlo", "jax")])
def test_a_program_answers_as_the_run_does(format: str, runtime: str, run: Run, workdir: Path) -> None:
    result = run("--mode=export", f"--workdir={workdir}", f"--format={format}")
    assert result.code == 0
    written, takes, compared = result.out.splitlines()
    assert takes == "its input: uint8 [N, 64, 64, 3], RGB; everything else is in the model"
    words = compared.split()
    assert compared.startswith(f"its probabilities in {runtime} ")
    assert float(words[-1]) < 1e-6
    assert Path(written.removeprefix("written: ")).stat().st_size > 1e5


@pytest.mark.parametrize("format", ["onnx", "keras"])
def test_a_file_of_weights_is_exported_without_a_run(
    format: str, run: Run, workdir: Path, tmp_path: Path
) -> None:
    assert run("--mode=export", f"--workdir={workdir}").code == 0
    weights = workdir / "export" / "resnet.safetensors"
    result = run("--mode=export", f"--weights={weights}", f"--workdir={tmp_path}", f"--format={format}")
    assert result.code == 0
    path = Path(result.out.splitlines()[0].removeprefix("written: "))
    assert path.parent == tmp_path / "export"


def test_a_run_and_a_file_of_weights_are_not_exported_at_once(run: Run, workdir: Path) -> None:
    result = run("--mode=export", "--weights=resnet.safetensors", f"--workdir={workdir}")
    assert_refused(result, f"--workdir={workdir}: holds a run, but the weights are those of a file")


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_smaller_model_is_measured_beside_float32(
    precision: str, run: Run, trained_run: Path, tmp_path: Path
) -> None:
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    result = run("--mode=export", f"--workdir={workdir}", "--format=onnx", f"--precision={precision}")
    assert_succeeded(result)
    written, compared, _, header, _, *rows = result.out.splitlines()
    assert written == f"written: {workdir / 'export' / f'model_{precision}.onnx'}"
    assert compared.startswith("its probabilities in onnxruntime ")
    assert header.split() == HEADER
    assert [row.split()[0] for row in rows] == ["float32", precision]
    whole, smaller = (float(row.split()[1]) for row in rows)
    assert smaller <= whole


def test_int8_needs_the_training_images_of_a_run(run: Run, tmp_path: Path) -> None:
    flags = ("--weights=resnet.safetensors", f"--workdir={tmp_path}", "--format=onnx", "--precision=int8")
    assert_refused(
        run("--mode=export", *flags), "--precision=int8: is calibrated on the training images of a run"
    )


def test_the_precision_is_for_onnx(run: Run, workdir: Path) -> None:
    result = run("--mode=export", f"--workdir={workdir}", "--format=keras", "--precision=int8")
    assert_refused(result, "--precision: is for --format=onnx and web")


def test_the_page_with_the_network_of_a_run(run: Run, trained_run: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained_run, tmp_path / "lr-0.5")
    result = run("--mode=export", f"--workdir={workdir}", "--format=web", "--precision=float16")
    assert_succeeded(result)
    site = workdir / "export" / "web"
    assert (site / "index.html").is_file()
    described = json.loads((site / "network.json").read_text())
    model = Classifier.load(site / "network.onnx")
    assert described["class_names"] == list(model.class_names) == list("012345")
    assert (described["name"], described["precision"]) == ("lr-0.5", "float16")
    assert described["trained_on"].startswith("A ResNet-18, trained for 2 epochs on 48 images of signs")
    assert 0 < described["no_sign"]["threshold"] < 1
    assert described["no_sign"] == model.notes["no_sign"]
