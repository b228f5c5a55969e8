"""All claims about a GPU in one call: every part is a command that runs, and what is measured is kept."""

import importlib
import sys
from argparse import Namespace
from typing import Any

import pytest

from benchmarks import contest, gpu, replicas, same_results, whole_training
from benchmarks.gpu import Part, format_goals, measure, parts
from benchmarks.rounds import spread, summarize


def options(monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[Namespace, list[str]]:
    monkeypatch.setattr(sys, "argv", ["gpu", *flags])
    return gpu._parse()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_part_is_a_command_that_its_benchmark_accepts(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    flags = (f"--device={device}", "--batch=4", "--config.num_epochs=1")
    for part in parts(*options(monkeypatch, *flags)):
        importlib.import_module(f"benchmarks.{part.module}")
        monkeypatch.setattr(sys, "argv", [part.module, *part.options, f"--device={device}"])
        match part.module:
            case "replicas":
                assert replicas._parse().batch == 4
            case "same_results":
                assert same_results._parse().batch == 4
            case "whole_training":
                assert whole_training._parse()[1] == ["--config.num_epochs=1"]
            case task:
                parsed = contest._parse("", [1], 1)
                task = {"train_step": "train", "inference": "inference"}[task]
                assert list(contest._select_peers(task, device, parsed.peers))[1:] == [gpu.PEER[device]]


def test_a_part_that_is_stopped_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Its workers end with it: the pipe that they hold closes."""
    module = tmp_path / "benchmarks" / "slow.py"
    module.parent.mkdir()
    module.write_text(
        "import pathlib, subprocess, sys\n"
        "path = next(a for a in sys.argv if a.startswith('--json=')).removeprefix('--json=')\n"
        "pathlib.Path(path).write_text('{\"results\": [1]}')\n"
        "subprocess.run(['sleep', '600'])\n"
    )
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    result = measure(Part("slow", "slow", ()), "cpu", seconds=2)
    assert result["results"] == [1]
    assert result["failed"] == "stopped after 2 s"
    assert 2 <= result["part_seconds"] < 60


def test_a_part_that_fails_is_named_beside_the_goals() -> None:
    rows = summarize({"ours": [12.0, 13.0], "torch_cuda_graph": [10.0, 10.0]}, None)
    all_parts = [
        Part("train", "train_step", (), goal=1.2),
        Part("seeds", "replicas", (), goal=3.0),
        Part("late", "inference", (), goal=1.0),
    ]
    results = {
        "train": {"results": [{"rows": rows}]},
        "seeds": {"results": [{"seeds": 5, "ratio": spread([2.0])._asdict()}]},
        "late": {"failed": "no time left"},
    }
    lines = [line.split() for line in format_goals(all_parts, results).splitlines()]
    assert ["train", "1.25", "(1.20-1.30)", "1.2", "yes"] in lines
    assert ["seeds", "2.00", "(2.00-2.00)", "3.0", "no"] in lines
    assert " ".join(lines[-1]) == "late: not measured (no time left)"
