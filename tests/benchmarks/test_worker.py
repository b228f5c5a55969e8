"""A contestant runs in a process of its own, after another process has compiled its programs."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import worker
from benchmarks.peers import Case
from benchmarks.rounds import Failed
from benchmarks.worker import Worker, start

CASE = Case("train", 18, 2, 32, "float32", "cpu", 1)


def test_a_round_of_a_process(tmp_path: Path) -> None:
    product = Worker("product_jax", CASE, tmp_path)
    try:
        assert product.hello["device"] == "cpu"
        assert product.hello["warm_up_seconds"] > 0
        reply = product.run(2)
    finally:
        product.stop()
    assert reply["seconds"] > 0
    assert reply["peak_memory"] >= product.hello["peak_memory"] > 1e6


def test_a_contestant_that_cannot_be_built_gives_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="does not divide over 3 devices"):
        Worker("ours", Case("train", 18, 2, 32, "float32", "cpu", 1, devices=3), tmp_path)


def test_what_a_contestant_writes_lies_in_the_folder_that_is_removed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    ours = Worker("ours_onnx", Case("inference", 18, 2, 32, "float32", "cpu", 1), tmp_path / "new" / "ours")
    ours.stop()
    assert len([*(tmp_path / "new").rglob("*.onnx")]) == 1


class FakeWorker:
    """Records the order in which processes start and stop, and the folder of their caches."""

    log: list[Any]

    def __init__(self, name: str, case: Case, caches: Path, warm_up_steps: int = 3) -> None:
        self.log.append(("start", name, caches))
        self.hello = {"warm_up_seconds": 40.0 / len(self.log), "peak_memory": 2e9 / len(self.log)}

    def stop(self) -> None:
        self.log.append("stop")


def test_a_contestant_that_compiles_is_measured_in_its_second_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker, "Worker", FakeWorker)
    FakeWorker.log = []
    second = start("ours", CASE, tmp_path)
    assert FakeWorker.log == [("start", "ours", tmp_path), "stop", ("start", "ours", tmp_path)]
    assert second.hello["compiling"] == {"warm_up_seconds": 40.0, "peak_memory": 2e9}
    assert second.hello["peak_memory"] < 2e9


def test_a_contestant_that_does_not_compile_starts_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker, "Worker", FakeWorker)
    FakeWorker.log = []
    assert start("torch_eager", CASE, tmp_path).hello["compiling"] is None
    assert len(FakeWorker.log) == 1
