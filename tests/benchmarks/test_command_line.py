"""The options of the benchmarks: each offers those that it uses, and `--device` decides where JAX starts."""

import argparse
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import (
    folder_startup,
    gpu_program,
    loading,
    replicas,
    same_results,
    scaling,
    stream_memory,
    streamed_training,
    time_to_accuracy,
)
from benchmarks.worker import CPU_ONLY


@pytest.mark.parametrize(
    ("benchmark", "option"),
    [
        *((module, "--device=gpu") for module in (gpu_program, loading, scaling, stream_memory)),
        *((time_to_accuracy, option) for option in ("--device=gpu", "--jobs=2")),
        (folder_startup, "--jobs=2"),
    ],
)
def test_an_option_without_effect_is_refused(
    benchmark: Any, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "_run", None)
    needed = ["--dir=photos"] if benchmark is folder_startup else []
    monkeypatch.setattr(sys, "argv", ["benchmark", *needed, option])
    with pytest.raises(SystemExit) as exit:
        benchmark.main()
    assert exit.value.code == 2
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err


class Started(Exception):
    """Raised in place of the first thing that imports JAX."""


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("benchmark", "first"), [(replicas, "_make_training"), (streamed_training, "_write_hands")]
)
def test_jax_starts_on_the_device_of_the_option(
    benchmark: Any, first: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CPU_ONLY, "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back

    def stop(*_: Any) -> None:
        raise Started

    monkeypatch.setattr(benchmark, first, stop)
    with pytest.raises(Started):
        benchmark._run(argparse.Namespace(device=device))
    assert {name: os.environ[name] for name in CPU_ONLY} == (
        CPU_ONLY if device == "cpu" else dict.fromkeys(CPU_ONLY, "")
    )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_parts_of_same_results_start_on_the_device_of_the_option(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CPU_ONLY:
        monkeypatch.setenv(name, "of the user")
    started = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append({name: env[name] for name in CPU_ONLY})
        return subprocess.CompletedProcess(command, 0, "{}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["same_results", f"--device={device}"])
    assert same_results._in_a_process(same_results._parse(), "errors") == {}
    assert started == [CPU_ONLY if device == "cpu" else dict.fromkeys(CPU_ONLY, "of the user")]
