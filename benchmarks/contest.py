"""What `train_step` and `inference` have in common: the command line, the rounds and the report."""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import command_line, rounds
from benchmarks.command_line import DEPTHS, at_least, exit_code, list_of, names
from benchmarks.floor import multiply_adds
from benchmarks.machine import stamp
from benchmarks.peers import CLASSES, DTYPES, PEERS, PRODUCTS, Case, Peer
from benchmarks.peers.matrix_product import floating_point_operations
from benchmarks.rounds import OURS, Failed
from benchmarks.worker import Worker, start
from resnet.errors import UserError
from resnet.files import write_json

PRODUCT_STEPS = {"cpu": 5, "gpu": 50}


def main(task: str, description: str, batches: list[int], steps: int) -> int:
    """Runs the benchmark of `task` from the command line and returns the exit code."""
    options = _parse(description, batches, steps)
    return exit_code(lambda: _run(task, options))


def _parse(description: str, batches: list[int], steps: int) -> argparse.Namespace:
    parser = command_line.parser(description)
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=50, help="depth of the ResNet")
    parser.add_argument(
        "--batch", type=list_of(at_least(1)), default=batches, metavar="N[,N...]", help="images in a batch"
    )
    parser.add_argument(
        "--image_size", type=list_of(at_least(32)), default=[64], metavar="N[,N...]", help="pixels a side"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    parser.add_argument("--rounds", type=at_least(1), default=5, help="number of rounds")
    parser.add_argument(
        "--steps", type=at_least(1), default=steps, help="timed steps in a round, after an untimed one"
    )
    parser.add_argument(
        "--peers", type=names, default=None, metavar="NAME[,NAME...]", help=f"some of {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--one_process", action="store_true", help="compile in the process that is measured: peaks are higher"
    )
    return parser.parse_args()


def _run(task: str, options: argparse.Namespace) -> None:
    peers = _select_peers(task, options.device, options.peers)
    dtype = DTYPES[options.device] if options.dtype == "auto" else options.dtype
    report: dict[str, Any] = {
        "benchmark": task,
        **stamp(),
        "rounds": options.rounds,
        "results": [],
    }
    for image_size, batch in itertools.product(options.image_size, options.batch):
        case = Case(task, options.depth, batch, image_size, dtype, options.device, options.steps)
        result = _measure(case, peers, options.rounds, one_process=options.one_process)
        print(_format_result(result), flush=True)
        report["results"].append(result)
        if options.json:
            write_json(options.json, report)


def _select_peers(task: str, device: str, names: list[str] | None) -> dict[str, Peer]:
    suitable = {name: peer for name, peer in PEERS.items() if task in peer.tasks and device in peer.devices}
    for name in names or []:
        if name not in suitable:
            raise UserError(
                f"--peers={name}: no such peer for {task} on a {device}; expected some of"
                f" {', '.join(peer for peer in suitable if peer != OURS)}"
            )
    return {name: suitable[name] for name in [OURS, *(names if names is not None else suitable)]}


def _products_for(case: Case) -> dict[str, Peer]:
    # The bfloat16 product of PyTorch takes minutes on CPUs that have no instructions for it.
    is_slow = case.device == "cpu" and case.dtype == "bfloat16"
    return {name: peer for name, peer in PRODUCTS.items() if not (is_slow and "torch" in peer.packages)}


def _measure(case: Case, peers: Mapping[str, Peer], count: int, *, one_process: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        workers, left_out = _start_workers(case, peers | _products_for(case), stack, one_process=one_process)
        replies: dict[str, dict[str, Any]] = {}

        def measure_rate(name: str) -> float:
            steps = PRODUCT_STEPS[case.device] if name in PRODUCTS else case.steps
            replies[name] = workers[name].run(steps)
            work = floating_point_operations(case) if name in PRODUCTS else case.batch
            return steps * work / replies[name]["seconds"]

        rates, failed = rounds.alternate(
            {name: lambda name=name: measure_rate(name) for name in workers}, count
        )
    if OURS in failed:
        raise Failed(f"{OURS}: {failed[OURS]}")
    floor = _floor(case, {name: median(rates.pop(name)) for name in PRODUCTS if name in rates})
    rows = rounds.summarize(rates, floor["images_per_second"])
    for row in rows:
        row |= workers[row["name"]].hello | replies[row["name"]]
        del row["seconds"]
    return {
        "case": vars(case),
        "floor": floor,
        "rows": rows,
        "left_out": {name: reason for name, reason in (left_out | failed).items() if name not in PRODUCTS},
    }


def _start_workers(
    case: Case, peers: Mapping[str, Peer], stack: ExitStack, *, one_process: bool
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Starts a warm worker for each of `peers`; returns them, and why others could not be started.

    Leaving `stack` stops them.
    """
    caches = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compiled-")))
    workers: dict[str, Worker] = {}
    left_out: dict[str, str] = {}
    for name, peer in peers.items():
        try:
            if missing := peer.missing():
                raise Failed(f"not installed: {', '.join(missing)}")
            print(f"warming up {name}", file=sys.stderr, flush=True)
            workers[name] = start(name, case, caches / name, one_process=one_process)
            stack.callback(workers[name].stop)
        except Failed as error:
            if name == OURS:
                raise Failed(f"{OURS}: {error}") from None
            left_out[name] = str(error)
    return workers, left_out


def _floor(case: Case, product_rates: Mapping[str, float]) -> dict[str, Any]:
    """Returns what the fastest matrix product allows; `product_rates` are in operations per second."""
    operations = 2 * multiply_adds(case.task, case.depth, case.image_size, CLASSES)
    fastest = max(product_rates, key=product_rates.get, default=None)
    return {
        "images_per_second": product_rates[fastest] / operations if fastest else None,
        "operations_per_image": operations,
        "product": fastest,
        "operations_per_second": product_rates,
    }


def _format_result(result: dict[str, Any]) -> str:
    case, floor = result["case"], result["floor"]
    lines = [
        f"\n{case['task']}, ResNet-{case['depth']}, batch {case['batch']} of {case['image_size']}x"
        f"{case['image_size']}, {case['dtype']}, {result['rows'][0]['device']}",
        rounds.format_table(result["rows"], result["left_out"]),
    ]
    if floor["images_per_second"]:
        rate = floor["operations_per_second"][floor["product"]]
        lines.append(
            f"floor: {floor['images_per_second']:.1f} images/s, {floor['operations_per_image'] / 1e9:.3f}"
            f" GFLOP an image at the {rate / 1e9:.0f} GFLOP/s of {floor['product']}"
        )
    if lead := rounds.lead(result["rows"]):
        ratio = f"{lead.ratio.median:.2f} ({lead.ratio.low:.2f}-{lead.ratio.high:.2f})"
        lines.append(f"{lead.ours} over the fastest peer, {lead.peer}: {ratio}")
    return "\n".join(lines)
