"""Speed of several seeds as one program and in turn: `python -m benchmarks.replicas --help`.

A round trains each number of seeds for some steps in both ways; `config.seeds_together` chooses between them.
Images/s are the sum over seeds.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

from benchmarks import command_line, rounds
from benchmarks.command_line import DEPTHS, at_least, exit_code, list_of
from benchmarks.machine import stamp
from benchmarks.peers import CLASSES
from benchmarks.rounds import ratios, spread
from configs import default
from resnet.files import write_json


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--seeds", type=list_of(at_least(2)), default=[2, 3], metavar="N[,N...]", help="numbers of seeds"
    )
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=18, help="depth of the ResNet")
    parser.add_argument("--width", type=at_least(1), default=32, help="channels of its first stage")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a batch")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side")
    parser.add_argument("--steps", type=at_least(1), default=2, help="steps in a round")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="number of rounds")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    command_line.select_device(options)
    results = []
    train_one = _make_training(options, 1)
    for seeds in options.seeds:
        contestants = {
            "in turn": lambda n=seeds: sum(train_one() for _ in range(n)),
            "together": _make_training(options, seeds),
        }
        images = seeds * options.steps * options.batch
        seconds, _ = rounds.alternate(contestants, options.rounds)
        rates = {name: [images / value for value in values] for name, values in seconds.items()}
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


def _make_training(options: argparse.Namespace, seeds: int) -> Callable[[], float]:
    """Returns a function that trains `seeds` seeds as one program for a round, and returns the seconds."""
    import jax

    from datasets.types import Split
    from devices.mesh import by_replica, has_replicas, make_mesh, stack_states
    from input_pipeline import put_on_devices
    from train import init_state, make_run_steps
    from training.network import make_network
    from training.optimizer import learning_rate_schedule, make_optimizer

    config = _config(options)
    mesh = make_mesh(config.batch_size, seeds)
    network = make_network(config, CLASSES)
    schedule = learning_rate_schedule(
        config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=options.steps
    )
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
    split = put_on_devices(Split(*_noise(options.steps * options.batch, options.image_size)), mesh)
    initial = init_state(network.init(config.seed), optimizer, with_average=config.ema_decay > 0)
    state = stack_states([initial] * seeds, mesh)
    seed_array, order = np.arange(seeds, dtype=np.uint32), np.arange(len(split.labels), dtype=np.int32)
    if has_replicas(mesh):
        order = np.tile(order, (seeds, 1))
    else:
        seed_array = seed_array[0]
    order = jax.device_put(order, by_replica(mesh))

    def train() -> float:
        nonlocal state
        start = time.perf_counter()
        state, history = run_steps(state, split, order, seed_array, options.steps)
        jax.block_until_ready(history)
        return time.perf_counter() - start

    train()  # The first call compiles.
    return train


def _config(options: argparse.Namespace) -> ConfigDict:
    config = default.get_config()
    config.batch_size, config.steps_per_call = options.batch, options.steps
    config.data.image_size = options.image_size
    config.model.depth, config.model.width = options.depth, options.width
    return config


def _noise(count: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images uint8 [count, image_size, image_size, 3], and labels int32 [count]."""
    shape = (count, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return images, np.arange(count, dtype=np.int32) % CLASSES


if __name__ == "__main__":
    sys.exit(main())
