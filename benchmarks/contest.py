"""What `train_step` and `inference` share: the command line, the rounds, the report."""

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import rounds
from benchmarks.floor import multiply_adds
from benchmarks.peers import CLASSES, PEERS, PRODUCTS, Case, Peer
from benchmarks.peers.matrix_product import floating_point_operations
from benchmarks.rounds import OURS, Failed
from benchmarks.worker import Worker
from errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "tensorflow", "tensorflow-cpu", "keras")
PRODUCT_STEPS = {"cpu": 5, "gpu": 50}


def main(task: str, description: str, batches: list[int], steps: int) -> int:
    """Runs the benchmark of `task` from the command line and returns the exit code."""
    options = _parse(description, batches, steps)
    try:
        _run(task, options)
    except (UserError, Failed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def _parse(description: str, batches: list[int], steps: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--depth", type=int, choices=(18, 34, 50, 101, 152), default=50)
    parser.add_argument("--batch", type=_list_of(_at_least(1)), default=batches, metavar="N[,N...]")
    parser.add_argument(
        "--image_size", type=_list_of(_at_least(32)), default=[64], metavar="N[,N...]", help="pixels a side"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=_at_least(1), default=5)
    parser.add_argument(
        "--steps", type=_at_least(1), default=steps, help="steps a round, after an untimed one"
    )
    parser.add_argument(
        "--peers", type=_names, default=None, metavar="NAME[,NAME...]", help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="PATH", help="write the report there too")
    return parser.parse_args()


def _at_least(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number, at least {low}")
        return int(text)

    return parse


def _list_of(parse: Callable[[str], int]) -> Callable[[str], list[int]]:
    return lambda text: [parse(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _run(task: str, options: argparse.Namespace) -> None:
    peers = _chosen_peers(task, options.device, options.peers)
    dtype = options.dtype
    if dtype == "auto":
        dtype = "float32" if options.device == "cpu" else "bfloat16"
    report: dict[str, Any] = {
        "benchmark": task,
        "machine": _machine(),
        "versions": _versions(),
        "rounds": options.rounds,
        "results": [],
    }
    for image_size, batch in itertools.product(options.image_size, options.batch):
        case = Case(task, options.depth, batch, image_size, dtype, options.device, options.steps)
        result = _measure(case, peers, options.rounds)
        print(_text(result), flush=True)
        report["results"].append(result)
        if options.json:
            rounds.write_json(options.json, report)


def _chosen_peers(task: str, device: str, names: list[str] | None) -> dict[str, Peer]:
    able = {name: peer for name, peer in PEERS.items() if task in peer.tasks and device in peer.devices}
    for name in names or []:
        if name not in able:
            raise UserError(
                f"--peers: found {name!r}; for {task} on a {device} expected some of"
                f" {', '.join(peer for peer in able if peer != OURS)}"
            )
    return {name: able[name] for name in [OURS, *(names if names is not None else able)]}


def _measure(case: Case, peers: dict[str, Peer], count: int) -> dict[str, Any]:
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, peer in (peers | PRODUCTS).items():
            try:
                if missing := peer.missing():
                    raise Failed(f"not installed: {', '.join(missing)}")
                print(f"warming up {name}", file=sys.stderr, flush=True)
                workers[name] = Worker(name, case)
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
        row |= replies[row["name"]] | workers[row["name"]].hello
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


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
