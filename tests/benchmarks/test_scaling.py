"""The model of many GPUs, its figures by hand, and what it reads from a compiled program."""

import pytest

from benchmarks.scaling import (
    BANDWIDTH_INSIDE,
    LATENCY_INSIDE,
    NORMS,
    PARAMETERS,
    STEP_OF_256,
    exchange_seconds,
    exchanged,
    format_paper,
    step_on_paper,
)
from tests.command_line import run_program

PROGRAM = """
  %all-reduce.1 = (f32[32]{0}, f32[4,2]{1,0}) all-reduce(%a, %b), channel_id=2
  %get-tuple-element.1 = f32[32]{0} get-tuple-element(%all-reduce.1), index=0
  %all-reduce.2 = f32[] all-reduce(%c), channel_id=4
"""


def test_one_gpu_exchanges_nothing_and_takes_what_was_measured() -> None:
    step = step_on_paper(1)
    assert (step.share, step.gradient, step.norms) == (256, 0.0, 0.0)
    assert step.computing == pytest.approx(STEP_OF_256)
    assert step.images_per_second == pytest.approx(256 / STEP_OF_256)


def test_eight_gpus_of_a_machine_exchange_over_its_links() -> None:
    step = step_on_paper(8)
    latency = 2 * 3 * LATENCY_INSIDE
    assert step.norms == pytest.approx(2 * NORMS * latency)
    assert step.gradient == pytest.approx(latency + 2 * 7 / 8 * 4 * PARAMETERS / BANDWIDTH_INSIDE)


def test_more_gpus_take_smaller_shares_of_the_largest_batch_and_gain_less() -> None:
    steps = [step_on_paper(gpus) for gpus in (1, 8, 64, 1024)]
    assert [step.share for step in steps] == [256, 256, 128, 8]
    gained = [step.images_per_second / step.gpus for step in steps]
    assert gained == sorted(gained, reverse=True)
    assert format_paper(steps).splitlines()[-1].endswith("norms")


def test_the_bytes_of_exchanges_are_read_from_a_program() -> None:
    assert exchanged(PROGRAM) == [4 * 32, 4 * 8, 4]


def test_exchanges_take_the_seconds_of_those_that_were_timed_and_in_between_something_in_between() -> None:
    alone = {4: 1e-4, 64: 4e-4, 1024: 8e-4}
    assert exchange_seconds([4, 64, 64], alone) == pytest.approx(9e-4)
    assert exchange_seconds([16], alone) == pytest.approx(2e-4)


def test_the_command_prints_the_table() -> None:
    result = run_program("-m", "benchmarks.scaling", "--gpus=1,16")
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[2:]] == ["1", "16"]
