"""Speed of training from a stream beside training from the device: `python -m benchmarks.streamed_training`.

The images are rendered hands, saved as JPEG files of the size that is trained on. `stream` reads their pixels
from the cache of decoded images, `stream_decoding` decodes them for each step. All run the same steps, in
alternating rounds.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tabulate import tabulate

import datasets
from benchmarks import command_line, rounds
from benchmarks.command_line import DEPTHS, at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.rounds import ratios, spread
from configs import default
from datasets import image_cache
from datasets.rendered.render import CLASS_NAMES, TRAIN, render_range
from resnet.files import write_json

CONTESTANTS = ("device", "stream", "stream_decoding")


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=50, help="depth of the ResNet")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a batch")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side")
    parser.add_argument("--images", type=at_least(64), default=1056, help="number of images")
    parser.add_argument("--steps", type=at_least(1), default=11, help="steps in a round, one call")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="number of rounds")
    options = parser.parse_args()
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    command_line.select_device(options)
    with tempfile.TemporaryDirectory(prefix="streamed-training-") as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        _write_hands(Path(folder, "hands"), options)
        contestants = {name: _training(name, Path(folder, "hands"), options) for name in CONTESTANTS}
        for call in contestants.values():
            call()  # The first one compiles.
        rates, _ = rounds.alternate(contestants, options.rounds)
    results = {
        name: {
            "images_per_second": spread(values)._asdict(),
            "of_device": spread(ratios(values, rates["device"]))._asdict(),
        }
        for name, values in rates.items()
    }
    rows = [
        [name, "{median:.1f}".format(**row["images_per_second"]), *map(_range, row.values())]
        for name, row in results.items()
    ]
    print(tabulate(rows, ["", "images/s", "range", "of device"]))
    if options.json:
        case = {name: value for name, value in vars(options).items() if name != "json"}
        write_json(
            options.json, {"benchmark": "streamed_training", **stamp(), "case": case, "results": results}
        )


def _range(values: dict[str, float]) -> str:
    return "{median:.2f} ({low:.2f}-{high:.2f})".format(**values)


def _write_hands(folder: Path, options: argparse.Namespace) -> None:
    size = options.image_size
    hands = render_range(0, options.images, seed=0, image_size=size, stream=TRAIN, variety=1.0)
    for i, hand in enumerate(hands):
        file = folder / "train" / CLASS_NAMES[i % len(CLASS_NAMES)] / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(hand[..., :3]).save(file, quality=90)


def _training(name: str, folder: Path, options: argparse.Namespace) -> Callable[[], float]:
    """Returns a function that makes a call of steps, and returns its images/s."""
    import jax

    from devices.mesh import make_mesh, replicated
    from input_pipeline import make_epoch_order, place, steps_of_call
    from train import init_state, make_run_steps
    from training.network import make_network
    from training.optimizer import learning_rate_schedule, make_optimizer

    config = _config(name, folder, options)
    limit = image_cache.LIMIT
    if name == "stream_decoding":
        image_cache.LIMIT = 0  # Without room in the cache, images are decoded each time.
    train = datasets.load(config.data).train
    image_cache.LIMIT = limit
    mesh = make_mesh(config.batch_size)
    network = make_network(config, len(CLASS_NAMES))
    per_epoch = len(train.labels) // config.batch_size
    schedule = learning_rate_schedule(
        config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=per_epoch
    )
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
    order_of = jax.jit(make_epoch_order(train.labels, "shuffle"), out_shardings=replicated(mesh))
    data = place(train, config, mesh)
    data.start(config.seed, 0)
    state: Any = init_state(network.init(config.seed), optimizer, with_average=True)
    state = jax.device_put(state, replicated(mesh))
    step = 0

    def call() -> float:
        nonlocal state, step
        count = steps_of_call(step, per_epoch, config)
        permutation = order_of(np.uint32(config.seed), step // per_epoch)
        started = time.perf_counter()
        state, history = run_steps(state, data.batches(step), permutation, np.uint32(config.seed), count)
        np.asarray(history["loss"])
        step += count
        return count * config.batch_size / (time.perf_counter() - started)

    return call


def _config(name: str, folder: Path, options: argparse.Namespace) -> ConfigDict:
    config = default.get_config()
    config.data.update({"name": "folder", "dir": str(folder), "image_size": options.image_size})
    config.data.placement = "device" if name == "device" else "stream"
    config.batch_size, config.steps_per_call, config.num_epochs = options.batch, options.steps, 10**4
    config.model.depth = options.depth
    return config


if __name__ == "__main__":
    sys.exit(main())
