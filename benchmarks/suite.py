"""All tables of docs/benchmarks.md: `python -m benchmarks.suite [--only=ROW,...]`.

Each row is one command of this package. They run one after the other and write benchmarks/results/ROW.json,
which `python -m benchmarks.table` reads.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import HelpFormatter, at_least, exit_code, names
from benchmarks.rounds import Failed
from benchmarks.worker import ROOT
from resnet.errors import UserError

RESULTS = Path(__file__).parent / "results"


class Row(NamedTuple):
    """The name of a row, the module of this package that measures it, and its options."""

    name: str
    benchmark: str
    options: str = ""


TRAINS = "flax,torch_eager,torch_compile,keras_tf"
PREDICTS = f"{TRAINS},torch_jit,ours_onnx,torch_onnx,openvino"
# Rounds and steps are few where they are slow. Keras on JAX runs the same convolutions as stock Flax, so it
# takes part once for each task. At 224 pixels, training with torch_compile too would need 24 GB.
CPU_ROWS = (
    Row("train_64_b32", "train_step", "--batch=32 --image_size=64 --rounds=5 --steps=2"),
    Row(
        "train_224_b32",
        "train_step",
        "--batch=32 --image_size=224 --rounds=3 --steps=1 --peers=flax,torch_eager,keras_tf",
    ),
    Row(
        "train_32_b128",
        "train_step",
        f"--batch=128 --image_size=32 --rounds=5 --steps=2 --peers={TRAINS}",
    ),
    Row(
        "train_resnet18_64_b32",
        "train_step",
        "--depth=18 --batch=32 --image_size=64 --rounds=5 --steps=3 --peers=flax,torch_eager,torch_compile",
    ),
    Row(
        "train_bfloat16_64_b32",
        "train_step",
        "--dtype=bfloat16 --batch=32 --image_size=64 --rounds=3 --steps=1 --peers=flax,torch_eager,keras_tf",
    ),
    Row(
        "inference_64_b1",
        "inference",
        f"--batch=1 --image_size=64 --rounds=7 --steps=30 --peers={PREDICTS}",
    ),
    Row(
        "inference_64_b32",
        "inference",
        f"--batch=32 --image_size=64 --rounds=5 --steps=5 --peers={PREDICTS},keras_jax",
    ),
    Row(
        "inference_224_b1",
        "inference",
        f"--batch=1 --image_size=224 --rounds=5 --steps=5 --peers={PREDICTS}",
    ),
    Row(
        "inference_224_b32",
        "inference",
        f"--batch=32 --image_size=224 --rounds=3 --steps=1 --peers={PREDICTS}",
    ),
    Row("startup", "startup", "--rounds=3"),
    Row("growth", "growth", "--rounds=5 --steps=2 --plot=docs/growth.png"),
)
GPU_CASES = ((64, 32), (64, 256), (224, 256))
GPU_ROWS = (
    *(
        Row(f"gpu_train_{size}_b{batch}", "train_step", f"--batch={batch} --image_size={size} --steps=20")
        for size, batch in GPU_CASES
    ),
    *(
        Row(f"gpu_inference_{size}_b{batch}", "inference", f"--batch={batch} --image_size={size} --steps=50")
        for size, batch in GPU_CASES
    ),
    Row("gpu_startup", "startup", "--rounds=3"),
)
ROWS = {"cpu": CPU_ROWS, "gpu": GPU_ROWS}


def main() -> int:
    """Runs the rows from the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--device", choices=tuple(ROWS), default="cpu", help="device to measure on")
    parser.add_argument(
        "--only", type=names, default=None, metavar="ROW[,ROW...]", help="rows to run; --list shows all"
    )
    parser.add_argument("--rounds", type=at_least(1), default=None, help="rounds of every row")
    parser.add_argument("--list", action="store_true", help="print the commands, run none")
    options = parser.parse_args()
    return exit_code(lambda: _run(options.device, options.only, options.rounds, options.list))


def command(row: Row, device: str, count: int | None = None) -> list[str]:
    """Returns the arguments of Python that run `row` on `device`, in `count` rounds if there is a `count`."""
    options = [*shlex.split(row.options), f"--device={device}"]
    if count:
        options.append(f"--rounds={count}")
    report = RESULTS.relative_to(ROOT) / f"{row.name}.json"
    return ["-m", f"benchmarks.{row.benchmark}", *options, f"--json={report}"]


def _run(device: str, only: list[str] | None, count: int | None, only_list: bool) -> None:
    rows = {row.name: row for row in ROWS[device]}
    for name in only or []:
        if name not in rows:
            raise UserError(f"--only={name}: no such row; expected some of {', '.join(rows)}")
    failed = []
    for name in only or rows:
        arguments = command(rows[name], device, count)
        print(f"{name}: python {shlex.join(arguments)}", flush=True)
        if only_list:
            continue
        started = time.perf_counter()
        # A row that fails keeps its earlier report, and the other rows run all the same.
        if subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode:
            failed.append(name)
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)
    if failed:
        raise Failed(f"these rows failed: {', '.join(failed)}")


if __name__ == "__main__":
    sys.exit(main())
