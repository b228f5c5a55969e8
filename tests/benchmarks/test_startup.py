"""The time to the first step: where it ends, its phases, and the cache that a second start finds."""

import os
import sys
import time
from pathlib import Path

import jax
import pytest

from benchmarks import startup
from benchmarks.rounds import Failed
from benchmarks.startup import (
    Start,
    first_step,
    format_report,
    import_seconds,
    phase_seconds,
    start_environment,
    write_dataset,
)
from benchmarks.startup import _spreads as spreads
from benchmarks.startup_phases import PHASES, Span, listen, self_seconds
from datasets import signs
from tests.quick_compilation import QUICK_XLA_FLAGS

TRAINS = """
import sys, time
from pathlib import Path
print("to stderr", file=sys.stderr, flush=True)
time.sleep(0.3)
Path({workdir!r}, "metrics.jsonl").write_text("{{}}\\n")
time.sleep(600)
"""


def test_a_start_ends_with_the_first_line_of_the_metrics(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINS.format(workdir=str(tmp_path))]
    start = first_step(command, tmp_path, dict(os.environ))
    assert 0.3 <= start.seconds < 60
    assert start.peak_memory > 1e6
    assert start.messages == "to stderr\n"


def test_a_training_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('error: the seed is odd')"]
    with pytest.raises(Failed, match="exit code 1: error: the seed is odd"):
        first_step(command, tmp_path, dict(os.environ))


def test_of_nested_spans_the_innermost_counts() -> None:
    spans = [
        Span("compile", 4.0, 7.0),
        Span("rest", 0.0, 10.0),
        Span("trace", 2.0, 4.0),
        Span("trace", 2.5, 3.0),  # a function that the traced one calls
        Span("weights", 1.0, 8.0),
        Span("load", 5.0, 7.0),
        Span("step", 8.0, 10.0),
    ]
    assert self_seconds(spans) == {
        "rest": 1.0,
        "weights": 2.0,
        "trace": 2.0,
        "compile": 1.0,
        "load": 2.0,
        "step": 2.0,
    }


def test_modules_count_for_the_package_that_imports_them() -> None:
    messages = """\
import time: self [us] | cumulative | imported package
import time:      1000 |       1000 | absl
a line of a library
import time:      2000 |       2000 |     numpy.core
import time:      4000 |       6000 |   numpy
import time:      8000 |      14000 | jax.numpy
import time:     16000 |      16000 |     jax.numpy.linalg
import time:     32000 |      48000 |   flax.nnx
import time:     64000 |     112000 | flax
import time:    128000 |     128000 |   tensorstore
import time:    256000 |     384000 | orbax.checkpoint
import time:    512000 |     512000 | jaxtyping
"""
    seconds = import_seconds(messages)
    assert seconds == pytest.approx({"jax": 0.030, "flax": 0.096, "orbax": 0.384, "rest": 0.513})


def test_the_made_up_data_set_can_be_loaded(tmp_path: Path) -> None:
    write_dataset(tmp_path, images=20, image_size=40)
    dataset = signs.load(str(tmp_path))
    assert dataset.train.images.shape == (20, 40, 40, 3)
    assert dataset.test.images.shape == (120, 40, 40, 3)
    assert len(dataset.class_names) == 6


def test_phases_of_a_start(tmp_path: Path) -> None:
    write_dataset(tmp_path, images=8, image_size=48)
    fields = {
        "data.dir": tmp_path,
        "data.image_size": 48,
        "batch_size": 4,
        "steps_per_call": 1,
        "model.depth": 18,
        "model.width": 4,
        "model.convolution": "lax",  # It compiles in a fraction of the time.
    }
    settings = [f"--config.{name}={value}" for name, value in fields.items()]
    arguments = ["--config=configs/signs.py", f"--workdir={tmp_path}/run", *settings]
    started = time.time()
    environment = start_environment("cpu", str(tmp_path / "cache"))
    environment["XLA_FLAGS"] = QUICK_XLA_FLAGS
    seconds = phase_seconds(arguments, environment)
    assert tuple(seconds) == PHASES
    for name in ("imports", "data", "initial weights", "trace and lower", "compile", "first step"):
        assert seconds[name] > 0, name
    assert seconds["load compiled"] == 0
    assert sum(seconds.values()) <= time.time() - started


def test_loading_a_program_is_not_counted_as_compiling(compilation_cache: str) -> None:
    spans: list[Span] = []
    listener = listen(spans)
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    function = jax.jit(lambda x: jax.numpy.cos(x) * 0.123)
    try:
        function(1.0)
        phases = {span.phase for span in spans}
        spans.clear()
        function.clear_cache()
        function(1.0)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
        jax.monitoring.unregister_event_duration_listener(listener)
    assert phases == {"trace and lower", "compile"}
    assert {span.phase for span in spans} == {"trace and lower", "compile", "load compiled"}
    load = next(span for span in spans if span.phase == "load compiled")
    around = next(span for span in spans if span.phase == "compile")
    assert around.start <= load.start <= load.stop <= around.stop


def test_a_round_starts_four_times_on_one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, caches = [], set()

    def first_step(command: list[str], workdir: Path, environment: dict[str, str]) -> Start:
        starts.append(workdir.name)
        caches.add(environment["XDG_CACHE_HOME"])
        assert f"--workdir={workdir}" in command
        listing = "import time:      1000 |       1000 | jax"
        return Start(float(len(starts)), 10**6 * len(starts), listing if "importtime" in command else "")

    def phase_seconds(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
        caches.add(environment["XDG_CACHE_HOME"])
        return {"imports": 0.25, "first step": 0.5}

    monkeypatch.setattr(startup, "first_step", first_step)
    monkeypatch.setattr(startup, "phase_seconds", phase_seconds)
    rounds = [startup.measure_round(["--config.seed=1"], "cpu") for _ in range(2)]
    assert starts == ["first", "warm", "imports"] * 2
    assert len(caches) == 2
    assert rounds[0]["first"] == {"seconds": 1.0, "peak_memory": 10**6}
    case = {"depth": 18, "batch": 4, "image_size": 32, "device": "cpu", "settings": []}
    lines = format_report({"case": case, "results": spreads(rounds)}).splitlines()
    assert ["warm", "compilation", "cache", "3.50", "2.00-5.00", "4"] in [line.split() for line in lines]
    assert ["all", "0.75", "0.75-0.75"] in [line.split() for line in lines]


def test_every_round_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/of/the/user")
    environment = start_environment("cpu", "/of/the/round")
    assert "JAX_COMPILATION_CACHE_DIR" not in environment
    assert environment["XDG_CACHE_HOME"] == "/of/the/round"
