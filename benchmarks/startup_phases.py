"""Where a start's time goes: `python -m benchmarks.startup_phases TIME FLAGS`, used by `startup`.

It takes the flags of main.py, calls what main.py calls, times the functions of `train` from outside,
listens to JAX's own events, and stops after the first step. TIME is when the process was started, in
seconds since the epoch. Prints one JSON object: seconds by phase, which add up to the whole.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import main as program

IMPORTS, DATA, WEIGHTS, TRACE, COMPILE, LOAD, FIRST_STEP, REST = PHASES = (
    "imports",
    "data",
    "initial weights",
    "trace and lower",
    "compile",
    "load compiled",
    "first step",
    "rest",
)
JAX_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": TRACE,
    "/jax/core/compile/jaxpr_to_mlir_module_duration": TRACE,
    "/jax/core/compile/backend_compile_duration": COMPILE,
    "/jax/compilation_cache/cache_retrieval_time_sec": LOAD,
}


class Span(NamedTuple):
    """From `start` to `stop`, in seconds since the epoch, something of `phase` went on."""

    phase: str
    start: float
    stop: float


class FirstStepDone(BaseException):
    """Raised where the first step's metrics would be written."""


def self_seconds(spans: Iterable[Span]) -> dict[str, float]:
    """Seconds of each phase: a span counts without the spans inside it, which count for themselves."""
    seconds: dict[str, float] = {}
    around: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.stop)):
        while around and around[-1].stop <= span.start:
            around.pop()
        length = span.stop - span.start
        seconds[span.phase] = seconds.get(span.phase, 0.0) + length
        if around:
            seconds[around[-1].phase] -= length
        around.append(span)
    return seconds


def measure(started: float, arguments: list[str]) -> dict[str, float]:
    """Starts the training that `arguments` of main.py describe; returns seconds of each of `PHASES`."""
    argv = ["main.py", *arguments]
    values = program.define_flags(argv)
    program.parse_flags(values, argv)
    program.apply_accelerator_settings(values.config, training=True)
    import jax.export

    import metrics
    import modes  # noqa: F401 - main.py imports it
    import train

    spans = [Span(IMPORTS, started, time.time())]
    listen(spans)
    _time(jax.export, "deserialize", TRACE, spans)
    _time(train.datasets, "load", DATA, spans)
    _time(train.datasets, "train_val_split", DATA, spans)
    _time(train, "put_on_devices", DATA, spans)
    _time(train, "Network", WEIGHTS, spans)
    _time(train, "init_state", WEIGHTS, spans)

    def stop(*_: Any) -> None:
        raise FirstStepDone

    metrics.MetricsWriter.write = stop
    try:
        train.train_and_evaluate(values.config, Path(values.workdir))
    except FirstStepDone:
        now = time.time()
    # What comes after the last compiled program is the first step.
    spans.append(Span(FIRST_STEP, max(span.stop for span in spans), now))
    return dict.fromkeys(PHASES, 0.0) | self_seconds([Span(REST, started, now), *spans])


def listen(spans: list[Span]) -> Callable[..., None]:
    """Has JAX add to `spans` what it traces, lowers, compiles and loads; returns the listener."""
    import jax

    def note(event: str, seconds: float, **_: Any) -> None:
        if event in JAX_EVENTS:
            now = time.time()
            spans.append(Span(JAX_EVENTS[event], now - seconds, now))

    jax.monitoring.register_event_duration_secs_listener(note)
    return note


def _time(module: ModuleType, name: str, phase: str, spans: list[Span]) -> None:
    function: Callable[..., Any] = getattr(module, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append(Span(phase, start, time.time()))

    setattr(module, name, timed)


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]), sys.argv[2:])))
