"""`--mode=train`: the report at its end, the step that it prefetches, what it prints for several seeds."""

import base64
import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import jax
import pytest
from PIL import Image

from configs import default
from devices import program_cache
from devices.program_cache import CachedProgram
from modes.train import prefetch_training_step
from resnet.errors import UserError
from tests.command_line import SHORT_TRAINING, Run, assert_refused, assert_succeeded, run_program
from tests.runs import summary_of


class PageReader(HTMLParser):
    """Collects what a browser would fetch, and the text that it would show."""

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
    summary = summary_of(workdir)
    assert f"{summary['ema']['test']['accuracy']:.4f}" in page.text
    for part in ("Grad-CAM", "ECE", "optimizer.learning_rate", summary["versions"]["jax"], "near twin"):
        assert part in page.text


def test_report_that_fails_loses_nothing(
    run: Run, workdir: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, shared_signs_dir: Path
) -> None:
    shutil.rmtree(copy / "report")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("evaluation.report.page.write_report", fail)
    flags = [*SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}", "--config.data.val_fraction=0.2"]
    result = run(*flags, f"--workdir={copy}")
    assert result.code == 0
    assert "test accuracy" in result.out
    assert len(result.err.splitlines()) == 1
    for part in ("ZeroDivisionError: oh", f"--mode=report --workdir={copy}"):
        assert part in result.err
    assert (copy / "summary.json").read_bytes() == (workdir / "summary.json").read_bytes()


@pytest.mark.parametrize(
    "sizes", [[], ["--config.augment.early_size=48", "--config.augment.early_share=0.5"]]
)
def test_training_step_is_prefetched_where_training_looks_for_it(
    run: Run, tmp_path: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[str]
) -> None:
    looked_for = []

    def stop(*_: object) -> None:
        raise UserError("not kept")

    monkeypatch.setattr(program_cache, "_read", lambda file, sharding: looked_for.append(file))
    monkeypatch.setattr(CachedProgram, "_trace", stop)
    flags = [
        *SHORT_TRAINING,
        *sizes,
        f"--config.data.dir={shared_signs_dir}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert_refused(run(*flags), "not kept")
    prefetched, trained = looked_for
    assert prefetched == trained is not None


def test_step_of_seeds_together_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = default.get_config()
    config.seeds, config.seeds_together = (0, 1, 2), "yes"
    # As on three devices, of which each has a seed of its own, and no part of a batch.
    monkeypatch.setattr("devices.mesh.make_mesh", lambda batch_size, **_: 1 / 0)
    prefetch_training_step(config, Path("run"))
    config.seeds = ()
    with pytest.raises(ZeroDivisionError):
        prefetch_training_step(config, Path("run"))


def test_batch_that_does_not_divide_over_the_devices(
    run: Run, tmp_path: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1] * 5)
    result = run(*SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, "config.batch_size=12", "5 devices")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["train", "lr_find"])
def test_devices_without_memory_are_told_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    message = "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."

    def fail(*_: object) -> None:
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr("train.train_and_evaluate", fail)
    monkeypatch.setattr("modes.lr_find.find_learning_rate", fail)
    flags = [f"--mode={mode}", *SHORT_TRAINING, f"--workdir={tmp_path / 'run'}"]
    assert_refused(
        run(*flags), "config.batch_size=12: a step does not fit into the memory of the device; lower"
    )
    message = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        run(*flags)


@pytest.mark.parametrize("mode", ["train", "lr_find"])
def test_a_machine_without_memory_is_told_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 16.0 GiB for an array")

    monkeypatch.setattr("train.train_and_evaluate", fail)
    monkeypatch.setattr("modes.lr_find.find_learning_rate", fail)
    result = run(f"--mode={mode}", *SHORT_TRAINING, f"--workdir={tmp_path / 'run'}")
    assert_refused(result, "config.batch_size=12: the training does not fit into the memory of this machine;")


def test_training_does_not_wait_for_what_the_report_needs() -> None:
    code = (
        "import sys, main, train; main.load_modes();"
        " sys.exit(bool({'matplotlib', 'jinja2', 'scipy.ndimage'} & {*sys.modules}))"
    )
    assert run_program("-c", code).returncode == 0


def test_training_prints_means_and_writes_one_report(
    run: Run, seeds_workdir: Path, training_of_seeds: list[str]
) -> None:
    result = run(*training_of_seeds, f"--workdir={seeds_workdir}")
    assert_succeeded(result)
    summary = summary_of(seeds_workdir)
    mean, std = (summary[kind]["ema"]["test"] for kind in ("mean", "std"))
    expected = f"test accuracy {mean['accuracy']:.4f} ± {std['accuracy']:.4f} loss {mean['loss']:.4f}"
    assert expected in result.out
    assert list(summary["seeds"]) == ["7", "2"]
    assert "writing the report" not in result.out  # the first start has written it
    page = (seeds_workdir / "report" / "index.html").read_text()
    for part in ("<h2>Seeds</h2>", "mean ± std", "accuracy, 2 seeds", "accuracy, ensemble", "seed 7"):
        assert part in page
