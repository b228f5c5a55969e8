"""What a GPU would have to launch for a training step: `python -m benchmarks.gpu_program --help`.

Needs no GPU, but `jax[cuda12]`: XLA compiles for the card that `h100.txtpb` describes and writes down its
program, without autotuning. A CUDA graph is one launch, however many kernels it holds.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code, names
from benchmarks.peers import CLASSES, Case
from benchmarks.rounds import process_failed
from benchmarks.worker import ROOT
from resnet.files import write_json

CARD = ROOT / "benchmarks" / "h100.txtpb"
SIZES = ("depth", "width", "batch", "image_size", "seeds")  # options that a report names
STEPS = 10  # in a call; the program has a loop over them
THUNKS = "*jit_run_steps.thunk_sequence_after_thunk_passes.txt"  # XLA's list of what is launched
KERNELS = ("kCustomKernel", "kKernel", "kConvolution", "kGemm", "kCublasLtMatmul", "kCopy")
_THUNK = re.compile(r"( *)\d+: (k\w+)")


class Launches(NamedTuple):
    """What a step launches: `lines` by the host, and `kernels` in all, also those inside of graphs."""

    lines: int
    kernels: int


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    if options.compile:
        print(json.dumps({"temporaries": _compile(options, options.compile)}))
        return 0
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__, device=False)
    parser.add_argument("--depth", type=at_least(1), default=50, help="depth of the ResNet")
    parser.add_argument("--width", type=at_least(1), default=64, help="channels of its first stage")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a batch")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side")
    parser.add_argument("--seeds", type=at_least(1), default=1, help="seeds that are trained as one program")
    parser.add_argument(
        "--convolutions", type=names, default=["lax", "patches"], help="values of config.model.convolution"
    )
    parser.add_argument("--compile", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    results = [{"convolution": name} | _measure(options, name) for name in options.convolutions]
    rows = [
        [row["convolution"], row["lines"], row["kernels"], row["temporaries"] // 2**20] for row in results
    ]
    print(tabulate(rows, ["convolution", "launches by the host", "kernels", "temporaries, MiB"]))
    if options.json:
        sizes = {name: getattr(options, name) for name in SIZES}
        write_json(options.json, {"benchmark": "gpu_program", "case": sizes, "results": results})


def _measure(options: argparse.Namespace, convolution: str) -> dict[str, Any]:
    """Compiles in a process of its own, as XLA reads where to write only once.

    Raises:
        Failed: it does not compile, most likely as `jax[cuda12]` is not installed.
    """
    sizes = [f"--{name}={getattr(options, name)}" for name in SIZES]
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        result = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu_program", f"--compile={convolution}", *sizes],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise process_failed("compiling for a GPU", result.returncode, result.stderr)
        (thunks,) = Path(folder).glob(THUNKS)
        return count_launches(thunks.read_text())._asdict() | json.loads(result.stdout.splitlines()[-1])


def count_launches(thunks: str) -> Launches:
    """Counts what the body of the loop launches in XLA's list of thunks, whose indentation is its nesting."""
    found = [(len(match[1]), match[2]) for match in map(_THUNK.match, thunks.splitlines()) if match]
    start = next(i for i, (_, kind) in enumerate(found) if kind == "kWhile")
    body = []
    for indent, kind in found[start + 1 :]:
        if indent <= found[start][0]:
            break
        body.append((indent, kind))
    outermost = min(indent for indent, _ in body)
    lines = sum(indent == outermost for indent, _ in body)
    return Launches(lines, sum(kind in KERNELS for _, kind in body))


def _compile(options: argparse.Namespace, convolution: str) -> int:
    """Compiles the training step for `CARD`; returns the bytes of its temporary arrays."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    from benchmarks.peers.ours import make_config
    from datasets.types import Split
    from devices.mesh import by_replica, make_mesh, stack_states
    from input_pipeline import OnDevices
    from train import init_state, make_run_steps
    from training.network import make_network
    from training.optimizer import learning_rate_schedule, make_optimizer

    case = Case("train", options.depth, options.batch, options.image_size, "bfloat16", "gpu", STEPS)
    config = make_config(case)
    config.model.update(width=options.width, convolution=convolution)

    here = make_mesh(config.batch_size, options.seeds)
    card = topologies.get_topology_desc(
        platform="cuda", target_config=CARD.read_text(), topology="1x1x1"
    ).devices[:1]
    mesh = Mesh(np.array(card).reshape(here.devices.shape), here.axis_names)
    network = make_network(config, CLASSES)
    schedule = learning_rate_schedule(config.optimizer, num_epochs=1, steps_per_epoch=STEPS)
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh, packed=True)
    count = STEPS * options.batch
    images = np.zeros((count, options.image_size, options.image_size, 3), np.uint8)
    labels = np.zeros(count, np.int32)
    initial = init_state(network.init(0), optimizer, with_average=False)
    order, seed = labels, np.uint32(0)
    if options.seeds > 1:
        order, seed = np.tile(order, (options.seeds, 1)), np.arange(options.seeds, dtype=np.uint32)
    state = stack_states([initial] * options.seeds, here)
    state, order, seed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=by_replica(mesh)),
        (state, order, seed),
    )
    split = OnDevices(Split(images, labels), config, mesh).abstract()
    lowered = run_steps.lower(state, split, order, seed, np.int32(STEPS))
    return lowered.compile().memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    sys.exit(main())
