"""`--mode=export`: every format is read again and predicts the same."""

from pathlib import Path

import numpy as np
import pytest

from resnet import Classifier, load_pretrained
from resnet.formats import EXPORT_FORMATS, PROGRAMS
from tests.command_line import Run, assert_refused
from tests.runs import save_untrained_run, small_config

CLASSES = ("a", "b", "c")


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
