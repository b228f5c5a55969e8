"""Images a second on many GPUs, on paper and in a simulation: `python -m benchmarks.scaling --help`.

The model on paper adds what a step computes to what its GPUs exchange: the gradient, and the sums of every
batch norm, which are over the whole batch. Nothing is taken to overlap. Seconds of a step, bytes and loading
rates are measured by this project (docs/scaling.md says by which command); the links are the vendor's.

`--simulate` checks the shape of the model on this machine. 1, 2 and 4 processes train a small network with a
core each while there are cores, and exchange by Gloo. The seconds of their steps are compared with the model,
into which go the step of one process and exchanges that are timed alone.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import log2
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code, list_of
from benchmarks.machine import stamp
from benchmarks.rounds import process_failed
from benchmarks.worker import CPU_ONLY, QUIET, ROOT
from resnet.files import write_json

# ResNet-50 and ImageNet.
PARAMETERS = 25_557_032
NORMS = 53
IMAGES = 1_281_167
EPOCHS = 90
LARGEST_BATCH = 8192  # over all GPUs: Goyal et al. 2017 (arXiv:1706.02677), figure 1
LARGEST_SHARE = 256  # images of a GPU

# Measured on one H200, training in bfloat16.
STEP_OF_256 = 0.0355  # seconds for 256 images of 224x224
FIXED = 0.0023  # seconds of a step of no images, from batches of 32 and 256 images of 64x64
CORES = 16  # of that machine, for its one GPU
LOADED_BY_CORE = {"JPEG of 500x375": 191, "records of 224x224": 729}  # images/s

# One link of every GPU inside of its machine (NVLink), and one between machines (400 Gbit/s InfiniBand).
GPUS_OF_A_MACHINE = 8
BANDWIDTH_INSIDE, BANDWIDTH_BETWEEN = 450e9, 50e9  # bytes/s in each direction
LATENCY_INSIDE, LATENCY_BETWEEN = 2.5e-6, 5e-6  # seconds for a message

SIZES = tuple(4**power for power in range(1, 12))  # bytes of the exchanges that are timed alone, to 4 MB
STEPS = 4  # in a round
_ALL_REDUCE = re.compile(r"= (\(.*?\)|\S+) all-reduce\(")
_ARRAY = re.compile(r"f32\[([\d,]*)\]")


class Step(NamedTuple):
    """A step on paper: GPUs, images of each, and the seconds of its parts."""

    gpus: int
    share: int
    computing: float
    gradient: float
    norms: float

    @property
    def images_per_second(self) -> float:
        """Images/s of all GPUs, if loading keeps up."""
        return self.gpus * self.share / (self.computing + self.gradient + self.norms)


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    if options.process is not None:
        print(json.dumps(_measure(options)))
        return 0
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__, device=False)
    parser.add_argument(
        "--gpus", type=list_of(at_least(1)), default=[1, 8, 64, 1024], help="numbers of GPUs on paper"
    )
    parser.add_argument("--simulate", action="store_true", help="train in several processes on this CPU")
    parser.add_argument("--share", type=at_least(2), default=16, help="images of a simulated process")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="rounds of the simulation")
    parser.add_argument("--process", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    steps = [step_on_paper(gpus) for gpus in options.gpus]
    report: dict[str, Any] = {"benchmark": "scaling", **stamp(), "paper": [step._asdict() for step in steps]}
    print(format_paper(steps))
    if options.simulate:
        measured = [_simulate(options, processes) for processes in (1, 2, 4)]
        report["simulation"] = measured
        print(f"\n{format_simulation(measured, len(os.sched_getaffinity(0)))}")
    if options.json:
        write_json(options.json, report)


def step_on_paper(gpus: int) -> Step:
    """Returns a step on so many GPUs, with as many images for each as the largest batch allows."""
    share = max(1, min(LARGEST_SHARE, LARGEST_BATCH // gpus))
    computing = FIXED + share * (STEP_OF_256 - FIXED) / 256
    inside, machines = min(gpus, GPUS_OF_A_MACHINE), -(-gpus // GPUS_OF_A_MACHINE)
    # A tree up and down, inside of each machine and between them.
    latency = 2 * (LATENCY_INSIDE * log2(inside) + LATENCY_BETWEEN * log2(machines))
    # Every GPU sums an eighth of its machine's gradient, and exchanges it with the same GPU of the others.
    sent_inside = 2 * (inside - 1) / inside * 4 * PARAMETERS
    sent_between = 2 * (machines - 1) / machines * 4 * PARAMETERS / inside
    gradient = latency + sent_inside / BANDWIDTH_INSIDE + sent_between / BANDWIDTH_BETWEEN
    return Step(gpus, share, computing, gradient if gpus > 1 else 0.0, 2 * NORMS * latency)


def format_paper(steps: Sequence[Step]) -> str:
    """Returns the table of the model: parts of a step, images/s, and days with each way of loading."""
    one = step_on_paper(1).images_per_second
    rows = []
    for step in steps:
        rate = step.images_per_second
        parts = {"computing": step.computing, "gradient": step.gradient, "norms": step.norms}
        loaded = [min(rate, step.gpus * CORES * of_core) for of_core in LOADED_BY_CORE.values()]
        rows.append(
            [
                f"{step.gpus:,}",
                step.share,
                *(f"{1000 * seconds:.2f}" for seconds in parts.values()),
                f"{rate:,.0f}",
                f"{rate / step.gpus / one:.2f}",
                *(f"{IMAGES * EPOCHS / images / 86400:.3f}" for images in loaded),
                max(parts, key=parts.__getitem__) if loaded[0] == rate else "loading JPEG",
            ]
        )
    headers = [
        *("GPUs", "images of each", "computing, ms", "gradient, ms", "norms, ms", "images/s", "of ideal"),
        *(f"days: {name}" for name in LOADED_BY_CORE),
        "what binds",
    ]
    return tabulate(rows, headers, disable_numparse=True, colalign=["right"] * 9 + ["left"])


def _simulate(options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """Trains in so many processes, each on a core of its own while there are any.

    Raises:
        Failed: a process ends with another exit code than 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.scaling", f"--process={index}"),
                *(f"--processes={processes}", f"--port={port}"),
                *(f"--share={options.share}", f"--rounds={options.rounds}"),
            ],
            cwd=ROOT,
            env=os.environ | QUIET | CPU_ONLY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    outputs = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, outputs, strict=True):
        if process.returncode:
            raise process_failed("a simulated process", process.returncode, errors)
    return json.loads(outputs[0][0].splitlines()[-1])


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures a process of the simulation: its steps, what they exchange, and exchanges alone."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[options.process % len(cores)]})

    import jax

    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{options.port}", options.processes, options.process)
    from devices.mesh import make_mesh

    mesh = make_mesh(options.share * options.processes, all_hosts=True)
    program, train = _make_training(mesh, options.share * options.processes)
    exchanges = exchanged(program) if options.processes > 1 else []
    rounds = [train() for _ in range(options.rounds)]
    alone = {size: _time_exchange(mesh, size, options.rounds) for size in SIZES} if exchanges else {}
    return {
        "processes": options.processes,
        "seconds": median(rounds),
        "range": [min(rounds), max(rounds)],
        "exchanges": exchanges,
        "alone": alone,
    }


def _make_training(mesh: Any, batch: int) -> tuple[str, Callable[[], float]]:
    """Returns the compiled program, and a function that makes a round of steps and returns seconds a step."""
    import jax

    from benchmarks.peers import CLASSES
    from configs import default
    from datasets.types import Split
    from devices.mesh import put, replicated
    from input_pipeline import put_on_devices
    from train import init_state, make_run_steps
    from training.network import make_network
    from training.optimizer import learning_rate_schedule, make_optimizer

    config = default.get_config()
    config.batch_size, config.steps_per_call, config.data.image_size = batch, STEPS, 32
    config.model.depth, config.model.width = 18, 32
    network = make_network(config, CLASSES)
    schedule = learning_rate_schedule(config.optimizer, num_epochs=40, steps_per_epoch=STEPS)
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
    shape = (batch * STEPS, 32, 32, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    split = put_on_devices(Split(images, np.arange(batch * STEPS, dtype=np.int32) % CLASSES), mesh)
    state = put(init_state(network.init(0), optimizer, with_average=False), replicated(mesh))
    order = put(np.arange(batch * STEPS, dtype=np.int32), replicated(mesh))
    arguments = split, order, np.uint32(0), np.int32(STEPS)
    compiled = run_steps.lower(state, *arguments).compile()

    def train() -> float:
        nonlocal state
        started = time.perf_counter()
        state, history = compiled(state, *arguments)
        jax.block_until_ready(history)
        return (time.perf_counter() - started) / STEPS

    train()
    return compiled.as_text(), train


def exchanged(program: str) -> list[int]:
    """Returns the bytes of every array that a compiled program sums over the processes; all are float32.

    XLA puts several arrays into one all-reduce. Gloo exchanges each by itself.
    """
    shapes = [shape for result in _ALL_REDUCE.findall(program) for shape in _ARRAY.findall(result)]
    return [4 * int(np.prod([int(size) for size in shape.split(",") if size])) for shape in shapes]


def _time_exchange(mesh: Any, size: int, rounds: int) -> float:
    """Returns the median seconds of an all-reduce of `size` bytes over all processes."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from devices.mesh import by_batch, put, replicated

    repeats = 20
    array = put(np.ones((mesh.devices.size, size // 4), np.float32), by_batch(mesh))

    @jax.jit
    def exchange(array: jax.Array) -> jax.Array:
        def once(_: int, array: jax.Array) -> jax.Array:
            total = lax.with_sharding_constraint(array.sum(0), replicated(mesh))
            return lax.with_sharding_constraint(jnp.broadcast_to(total, array.shape), by_batch(mesh))

        return lax.fori_loop(0, repeats, once, array)

    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        exchange(array).block_until_ready()
        seconds.append((time.perf_counter() - started) / repeats)
    return median(seconds[1:])


def exchange_seconds(sizes: Sequence[int], alone: Mapping[int, float]) -> float:
    """Returns the seconds of exchanges of `sizes` bytes, from the seconds of those timed `alone` by bytes."""
    known = np.log(list(alone))
    return float(np.exp(np.interp(np.log(sizes), known, np.log(list(alone.values())))).sum())


def format_simulation(measured: Sequence[dict[str, Any]], cores: int) -> str:
    """Returns the table of steps that were measured, and of those that the model gives from one process."""
    one, rows = measured[0]["seconds"], []
    for result in measured:
        computing = one * max(1, result["processes"] / cores)
        exchanging = 0.0
        if result["alone"]:
            alone = {int(size): seconds for size, seconds in result["alone"].items()}
            exchanging = exchange_seconds(result["exchanges"], alone)
        model = computing + exchanging
        rows.append(
            [
                result["processes"],
                f"{len(result['exchanges'])} of {sum(result['exchanges']) / 1e6:.1f} MB in all",
                *(f"{1000 * seconds:.1f}" for seconds in (computing, exchanging, model, result["seconds"])),
                f"{result['seconds'] / model:.2f}",
            ]
        )
    headers = [
        "processes",
        "exchanges",
        "computing, ms",
        "exchanging, ms",
        "model, ms",
        "measured, ms",
        "ratio",
    ]
    return tabulate(rows, headers, disable_numparse=True, colalign=["right"] * 7)


if __name__ == "__main__":
    sys.exit(main())
