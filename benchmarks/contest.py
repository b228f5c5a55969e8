"""What `train_step` and `inference` share: the command line, the rounds, the report."""

import argparse
import itertools
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import command_line, rounds
from benchmarks.command_line import DEPTHS, at_least, exit_code, list_of, names
from benchmarks.floor import multiply_adds
from benchmarks.machine import stamp
from benchmarks.peers import CLASSES, PEERS, PRODUCTS, Case, Peer
from benchmarks.peers.matrix_product import floating_point_operations
from benchmarks.rounds import OURS, Failed
from benchmarks.worker import Worker, start
from errors import UserError
from files import write_json

PRODUCT_STEPS = {"cpu": 5, "gpu": 50}


def main(task: str, description: str, batches: list[int], steps: int) -> int:
    """Runs the benchmark of `task` from the command line and returns the exit code."""
    options = _parse(description, batches, steps)
    return exit_code(lambda: _run(task, options))


def _parse(description: str, batches: list[int], steps: int) -> argparse.Namespace:
    parser = command_line.parser(description)
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=50)
    parser.add_argument("--batch", type=list_of(at_least(1)), default=batches, metavar="N[,N...]")
    parser.add_argument(
        "--image_size", type=list_of(at_least(32)), default=[64], metavar="N[,N...]", help="pixels a side"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument(
        "--steps", type=at_least(1), default=steps, help="steps a round, after an untimed one"
    )
    parser.add_argument(
        "--peers", type=names, default=None, metavar="NAME[,NAME...]", help=f"of {', '.join(PEERS)}"
    )
    return parser.parse_args()


def _run(task: str, options: argparse.Namespace) -> None:
    peers = _chosen_peers(task, options.device, options.peers)
    dtype = options.dtype
    if dtype == "auto":
        dtype = "float32" if options.device == "cpu" else "bfloat16"
    report: dict[str, Any] = {
        "benchmark": task,
        **stamp(),
        "rounds": options.rounds,
        "results": [],
    }
    for image_size, batch in itertools.product(options.image_size, options.batch):
        case = Case(task, options.depth, batch, image_size, dtype, options.device, options.steps)
        result = _measure(case, peers, options.rounds)
        print(_text(result), flush=True)
        report["results"].append(result)
        if options.json:
            write_json(options.json, report)


def _chosen_peers(task: str, device: str, names: list[str] | None) -> dict[str, Peer]:
    able = {name: peer for name, peer in PEERS.items() if task in peer.tasks and device in peer.devices}
    for name in names or []:
        if name not in able:
            raise UserError(
                f"--peers: found {name!r}; for {task} on a {device} expected some of"
                f" {', '.join(peer for peer in able if peer != OURS)}"
            )
    return {name: able[name] for name in [OURS, *(names if names is not None else able)]}


def _products_for(case: Case) -> dict[str, Peer]:
    # PyTorch's bfloat16 product takes minutes on CPUs that have no instructions for it.
    slow = case.device == "cpu" and case.dtype == "bfloat16"
    return {name: peer for name, peer in PRODUCTS.items() if not (slow and "torch" in peer.packages)}


def _measure(case: Case, peers: dict[str, Peer], count: int) -> dict[str, Any]:
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        caches = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compiled-")))
        workers: dict[str, Worker] = {}
        for name, peer in (peers | _products_for(case)).items():
            try:
                if missing := peer.missing():
                    raise Failed(f"not installed: {', '.join(missing)}")
                print(f"warming up {name}", file=sys.stderr, flush=True)
                workers[name] = start(name, case, caches / name)
                stack.callback(workers[name].stop)
            except Failed as error:
                if name == OURS:
                    raise Failed(f"{OURS}: {error}") from None
                left_out[name] = str(error)
        replies: dict[str, dict[str, Any]] = {}

        def rate_of(name: str) -> float:
            steps = PRODUCT_STEPS[case.device] if name in PRODUCTS else case.steps
            replies[name] = workers[name].run(steps)
            work = floating_point_operations(case) if name in PRODUCTS else case.batch
            return steps * work / replies[name]["seconds"]

        measured, failed = rounds.alternate(
            {name: lambda name=name: rate_of(name) for name in workers}, count
        )
    if OURS in failed:
        raise Failed(f"{OURS}: {failed[OURS]}")
    left_out |= failed

    product_rates = {name: median(measured.pop(name)) for name in PRODUCTS if name in measured}
    operations = 2 * multiply_adds(case.task, case.depth, case.image_size, CLASSES)
    best = max(product_rates, key=product_rates.get, default=None)
    floor = product_rates[best] / operations if best else None
    rows = rounds.summarize(measured, floor)
    for row in rows:
        row |= workers[row["name"]].hello | replies[row["name"]]
        del row["seconds"]
    return {
        "case": vars(case),
        "floor": {
            "images_per_second": floor,
            "operations_per_image": operations,
            "product": best,
            "operations_per_second": product_rates,
        },
        "rows": rows,
        "left_out": {name: reason for name, reason in left_out.items() if name not in PRODUCTS},
    }


def _text(result: dict[str, Any]) -> str:
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
    if fastest := rounds.fastest_peer(result["rows"]):
        lines.append(f"fastest peer: {fastest['name']}, ours/peer {fastest['ratio']['median']:.2f}")
    return "\n".join(lines)
