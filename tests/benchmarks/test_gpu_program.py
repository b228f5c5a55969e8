"""What a GPU launches in a step: counted in XLA's list, and in a small step that is compiled for an H100."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu_program import Launches, count_launches
from tests.command_line import run_program

THUNKS = """000: kCommandBuffer [source | sink]
    001: kCopy         [source | sink] kCopy
002: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    003: kCustomKernel [source | sink] wrapped_compare grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source | sink]
        004: kCustomKernel [source | sink] loop_add_fusion grid: [1, 1, 1]
        005: kCopy [source | sink] kCopy
    006: kConvolution [source | sink] cudnn-conv
007: kCopy [source | sink] kCopy
"""


def test_a_graph_is_one_launch_of_many_kernels() -> None:
    assert count_launches(THUNKS) == Launches(lines=3, kernels=4)


@pytest.mark.skipif(
    not any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)), reason="needs jax[cuda12]"
)
def test_a_step_is_one_graph(tmp_path: Path) -> None:
    """The limit on kernels is what a ResNet-18 has: whoever needs more has to say so here."""
    report = tmp_path / "report.json"
    sizes = ("--depth=18", "--width=16", "--batch=8", "--convolutions=patches")
    result = run_program("-m", "benchmarks.gpu_program", *sizes, f"--json={report}")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(report.read_text())["results"]
    assert row["lines"] <= 2
    assert row["kernels"] <= 235
