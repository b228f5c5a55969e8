"""Whether the ways to compute a step agree on this device: `python -m benchmarks.same_results --help`.

Computes a gradient with each lowering of the convolution, in the dtype in which the device trains. Each is
compared with the gradient by `lax` in float32 at the highest precision. The relative error is the norm of the
difference divided by the norm of the gradient. If all lowerings have about the same error, it is rounding.
Then two processes train the same steps with `config.gpu.deterministic`, and must end with the same bits.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from typing import Any

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import DEPTHS, at_least, exit_code
from benchmarks.machine import gpu_names, stamp
from benchmarks.peers import CLASSES, DTYPES, Case
from benchmarks.rounds import process_failed
from benchmarks.worker import ROOT, device_variables
from resnet.files import write_json

SIZES = ("depth", "batch", "image_size", "steps")


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    if options.part:
        run = {"digest": digest, "errors": gradient_errors}[options.part]
        print(json.dumps(run(_case(options))))
        return 0
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=50, help="depth of the ResNet")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a batch")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side")
    parser.add_argument("--steps", type=at_least(1), default=20, help="steps before weights are compared")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _case(options: argparse.Namespace) -> Case:
    sizes = (options.depth, options.batch, options.image_size)
    return Case("train", *sizes, DTYPES[options.device], options.device, options.steps)


def _run(options: argparse.Namespace) -> None:
    sizes = {name: getattr(options, name) for name in SIZES}
    report: dict[str, Any] = {"benchmark": "same_results", **stamp(), "gpus": gpu_names(), "case": sizes}
    report["gradient_errors"] = _in_a_process(options, "errors")
    print(
        tabulate(report["gradient_errors"].items(), ["gradient", "difference from float32"], floatfmt=".2e")
    )
    if options.json:
        write_json(options.json, report)
    digests = [_in_a_process(options, "digest") for _ in range(2)]
    report["deterministic"] = digests[0] == digests[1]
    same = "the same bits" if report["deterministic"] else "DIFFERENT bits"
    print(f"two processes, {options.steps} steps each: {same}")
    if options.json:
        write_json(options.json, report)


def _in_a_process(options: argparse.Namespace, part: str) -> Any:
    """Returns what `part` prints in a process of its own, as JAX reads its environment only once.

    Raises:
        Failed: the process ends with another exit code than 0.
    """
    sizes = [f"--{name}={getattr(options, name)}" for name in (*SIZES, "device")]
    command = [sys.executable, "-m", "benchmarks.same_results", f"--part={part}", *sizes]
    variables = os.environ | device_variables(options.device)
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise process_failed(part, done.returncode, done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def gradient_errors(case: Case) -> dict[str, float]:
    """Returns the relative error of the gradient of each lowering, in the dtype of `case`."""
    import jax
    import numpy as np

    from benchmarks.peers.ours import make_config
    from train import make_loss
    from training.network import make_network

    config = make_config(case)
    images, targets = case.images(), np.eye(CLASSES, dtype=np.float32)[case.labels()]
    device_lowering = {"cpu": "matmul", "gpu": "patches"}[case.device]

    def gradient(lowering: str, dtype: str) -> np.ndarray:
        config.model.convolution, config.compute_dtype = lowering, dtype
        network = make_network(config, CLASSES)
        loss = make_loss(network, config)
        weights = network.init(seed=0)
        of_weights = jax.jit(jax.grad(loss, has_aux=True))
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            of_params, _ = of_weights(*weights, images, targets, None, jax.random.key(0))
        leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(of_params)]
        return np.concatenate(leaves)

    exact = gradient("lax", "float32")
    errors = {lowering: gradient(lowering, case.dtype) - exact for lowering in ("lax", device_lowering)}
    return {name: float(np.linalg.norm(error) / np.linalg.norm(exact)) for name, error in errors.items()}


def digest(case: Case) -> str:
    """Returns a digest of the weights after the steps of `case`, which are made deterministically."""
    from configs import default
    from devices import environment

    gpu = default.get_config().gpu
    gpu.deterministic = True
    environment.prepare(gpu, compilation_cache=False, training=True)  # before JAX is imported

    import jax
    import numpy as np

    from benchmarks.peers import ours

    state = ours.make("ours", case).run(case.steps)
    result = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        result.update(np.asarray(leaf).tobytes())
    return result.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
