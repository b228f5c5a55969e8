"""Several seeds as one program, or one after the other: `python -m benchmarks.replicas --help`.

A round trains every number of seeds for some steps both ways; this is what `config.seeds_together` chooses
between. Images/s count those of all seeds.
"""

import argparse
import sys
import time
from collections.abc import Callable

from tabulate import tabulate

from benchmarks import command_line, rounds
from benchmarks.command_line import DEPTHS, at_least, exit_code, list_of
from benchmarks.machine import stamp
from benchmarks.peers import CLASSES
from benchmarks.rounds import ratios, spread
from files import write_json


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument("--seeds", type=list_of(at_least(2)), default=[2, 3], metavar="N[,N...]")
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=18)
    parser.add_argument("--width", type=at_least(1), default=32)
    parser.add_argument("--batch", type=at_least(1), default=32)
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side")
    parser.add_argument("--steps", type=at_least(1), default=2)
    parser.add_argument("--rounds", type=at_least(1), default=3)
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    results = []
    in_turn = _trainer(options, 1)
    for seeds in options.seeds:
        together = _trainer(options, seeds)
        contestants = {
            "in turn": lambda n=seeds: sum(in_turn() for _ in range(n)),
            "together": together,
        }
        images = seeds * options.steps * options.batch
        seconds, _ = rounds.alternate(contestants, options.rounds)
        rates = {name: [images / each for each in values] for name, values in seconds.items()}
        results.append(
            {
                "seeds": seeds,
                **{name: spread(values)._asdict() for name, values in rates.items()},
                "ratio": spread(ratios(rates["together"], rates["in turn"]))._asdict(),
            }
        )
    headers = ["seeds", "in turn, images/s", "together, images/s", "together / in turn"]
    rows = [
        [
            row["seeds"],
            *(f"{row[name]['median']:.1f}" for name in ("in turn", "together")),
            "{median:.2f} ({low:.2f}-{high:.2f})".format(**row["ratio"]),
        ]
        for row in results
    ]
    print(tabulate(rows, headers))
    if options.json:
        case = {name: value for name, value in vars(options).items() if name != "json"}
        write_json(options.json, {"benchmark": "replicas", **stamp(), "case": case, "results": results})


def _trainer(options: argparse.Namespace, seeds: int) -> Callable[[], float]:
    """A function that trains `seeds` seeds as one for the steps of a round and returns the seconds."""
    import jax
    import numpy as np

    from configs import default
    from datasets.types import Split
    from input_pipeline import by_replica, has_replicas, make_mesh, put_on_devices
    from optimizer import learning_rate_schedule, make_optimizer
    from replicas import stack_states
    from resnet.network import Network
    from train import init_state, make_run_steps

    config = default.get_config()
    config.batch_size, config.steps_per_call = options.batch, options.steps
    config.model.depth, config.model.width = options.depth, options.width
    mesh = make_mesh(config.batch_size, seeds)
    network = Network(config, CLASSES)
    schedule = learning_rate_schedule(config, options.steps)
    optimizer = make_optimizer(config, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config, mesh)
    rng = np.random.default_rng(0)
    images = options.steps * options.batch
    shape = (images, options.image_size, options.image_size, 3)
    split = put_on_devices(
        Split(rng.integers(0, 256, shape, np.uint8), np.arange(images, dtype=np.int32) % CLASSES), mesh
    )
    state = stack_states([init_state(network, optimizer, config)] * seeds, mesh)
    numbers = np.arange(seeds, dtype=np.uint32)
    order = np.arange(images, dtype=np.int32)
    if has_replicas(mesh):
        order = np.tile(order, (seeds, 1))
    else:
        numbers = numbers[0]
    order = jax.device_put(order, by_replica(mesh))

    def train() -> float:
        nonlocal state
        start = time.perf_counter()
        state, history = run_steps(state, split, order, numbers, options.steps)
        jax.block_until_ready(history)
        return time.perf_counter() - start

    train()  # compiles
    return train


if __name__ == "__main__":
    sys.exit(main())
