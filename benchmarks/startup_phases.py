"""Where the time of a start goes: `python -m benchmarks.startup_phases TIME FLAGS`, used by `startup`.

It has the flags of main.py and calls the same functions. It times the functions that `train` uses from
outside, listens to the events of JAX, and stops after the first step. TIME is the start of the process, in
seconds since the epoch. It prints one JSON object: the seconds of each phase, whose sum is the whole time.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks.program import parse_command
from devices import environment

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
    """A part of `phase`, from `start` to `stop` in seconds since the epoch."""

    phase: str
    start: float
    stop: float


class FirstStepDone(BaseException):
    """Raised in place of writing the metrics of the first step."""


def self_seconds(spans: Iterable[Span]) -> dict[str, float]:
    """Returns the seconds of each phase. Where spans lie within each other, the innermost one counts."""
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
    """Starts the training that `arguments` of main.py describe; returns the seconds of all `PHASES`."""
    command = parse_command(arguments)
    config = command.settings()
    environment.prepare(config.gpu, compilation_cache=config.compilation_cache, training=True)
    import jax.export

    import input_pipeline
    import train
    from workdir.metrics import MetricsWriter

    spans = [Span(IMPORTS, started, time.time())]
    listen(spans)
    _time(jax.export, "deserialize", TRACE, spans)
    _time(train.datasets, "load", DATA, spans)
    _time(train.datasets, "train_val_split", DATA, spans)
    _time(input_pipeline, "put_on_devices", DATA, spans)
    _time(train, "make_network", WEIGHTS, spans)
    _time(train.Network, "init", WEIGHTS, spans)
    _time(train, "init_state", WEIGHTS, spans)

    def stop(*_: Any) -> None:
        raise FirstStepDone

    MetricsWriter.write = stop
    try:
        train.train_and_evaluate(config, command.run_folder)
    except FirstStepDone:
        now = time.time()
    # The first step is what follows the last program.
    spans.append(Span(FIRST_STEP, max(span.stop for span in spans), now))
    return dict.fromkeys(PHASES, 0.0) | self_seconds([Span(REST, started, now), *spans])


def listen(spans: list[Span]) -> Callable[..., None]:
    """Makes JAX add to `spans` what it traces, lowers, compiles and loads; returns the listener."""
    import jax

    def note(event: str, seconds: float, **_: Any) -> None:
        if event in JAX_EVENTS:
            now = time.time()
            spans.append(Span(JAX_EVENTS[event], now - seconds, now))

    jax.monitoring.register_event_duration_secs_listener(note)
    return note


def _time(owner: Any, name: str, phase: str, spans: list[Span]) -> None:
    """Replaces the function `name` of a module or a class by one that adds its time to `spans`."""
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append(Span(phase, start, time.time()))

    setattr(owner, name, timed)


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]), sys.argv[2:])))
