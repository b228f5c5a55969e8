"""Images/s of loading JPEG files for training, beside PyTorch's DataLoader: `python -m benchmarks.loading`.

The files are rendered hands with noise, 500x375 pixels, which become squares of 224 pixels. Each contestant
loads them in a process of its own, in alternating rounds, with as many processes or threads:

- `ours`: threads of the training's process; `ours_processes`: processes;
- `ours_records`: from a folder that `python -m datasets.records --size=224` has packed;
- `torch`: DataLoader with torchvision's RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize, as
  in its ImageNet example. We do the same inside of the training step;
- `torch_square`: DataLoader with what we do outside of the step: Resize, CenterCrop, and pixels as uint8.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import command_line, rounds
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.rounds import format_table, process_failed, summarize
from resnet.files import write_json

CONTESTANTS = ("ours", "ours_processes", "ours_records", "torch", "torch_square")
WIDTH, HEIGHT, SIZE, QUALITY = 500, 375, 224, 90
WARM_UP = 6  # batches that are not timed: processes start, and first batches wait in their queues


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    parser = command_line.parser(__doc__, device=False)
    parser.add_argument("--files", type=at_least(64), default=400, help="number of JPEG files")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a batch")
    parser.add_argument("--batches", type=at_least(1), default=40, help="timed batches in a round")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="number of rounds")
    parser.add_argument(
        "--processes", type=at_least(1), default=os.cpu_count() or 1, help="processes that load"
    )
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    return exit_code(lambda: _measure(options) if options.measure else _run(options))


def _run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="loading-") as name:
        folder = Path(name)
        write_pictures(folder / "photos", options.files)
        pack = ["-m", "datasets.records", folder / "photos", folder / "records", f"--size={SIZE}"]
        subprocess.run([sys.executable, *map(str, pack)], check=True, stdout=subprocess.DEVNULL)
        contestants = {name: lambda name=name: _in_process(name, folder) for name in CONTESTANTS}
        rates, failed = rounds.alternate(contestants, options.rounds)
    rows = summarize(rates, None)
    print(f"{options.batch} of {WIDTH}x{HEIGHT} to {SIZE}x{SIZE}, {options.processes} processes or threads")
    print(format_table(rows, failed))
    if options.json:
        case = {name: value for name, value in vars(options).items() if name not in ("json", "measure")}
        write_json(options.json, {"benchmark": "loading", **stamp(), "case": case, "results": rows})


def write_pictures(folder: Path, count: int) -> None:
    """Writes `count` JPEG files into `folder/train/CLASS`: hands, enlarged, with noise on several scales."""
    from datasets.rendered.render import CLASS_NAMES, render

    rng = np.random.default_rng(0)
    for i in range(count):
        label = i % len(CLASS_NAMES)
        hand = Image.fromarray(render(label, i, 0, image_size=96)).resize((WIDTH, HEIGHT))
        coarse = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
        texture = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT)))
        pixels = 0.8 * np.asarray(hand) + 0.2 * texture + rng.normal(0, 6, (HEIGHT, WIDTH, 1))
        file = folder / "train" / CLASS_NAMES[label] / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=QUALITY)


def _in_process(name: str, folder: Path) -> float:
    """Returns the images/s of the contestant `name`, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", *sys.argv[1:]]
    command += [f"--measure={name}", f"--folder={folder}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "cache")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise process_failed(name, result.returncode, result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def _measure(options: argparse.Namespace) -> None:
    batches = _torch_batches(options) if options.measure.startswith("torch") else _our_batches(options)
    for _ in range(WARM_UP):
        next(batches)
    started = time.perf_counter()
    for _ in range(options.batches):
        next(batches)
    print(options.batches * options.batch / (time.perf_counter() - started), flush=True)
    os._exit(0)  # What loads ahead need not come to its end.


def _our_batches(options: argparse.Namespace) -> Iterator[Any]:
    import datasets
    from configs import default
    from datasets import image_cache
    from datasets.read_ahead import read_ahead
    from input_pipeline import BatchSource

    image_cache.LIMIT = 0  # The cache of decoded images would make every further epoch faster.
    config = default.get_config()
    source = "records" if options.measure == "ours_records" else "photos"
    config.data.update({"name": "folder", "dir": str(options.folder / source), "placement": "stream"})
    config.data.image_size, config.batch_size, config.num_epochs = SIZE, options.batch, 10**4
    train = datasets.load(config.data).train
    items = BatchSource(train, train.labels, config, seed=0, first_step=0)
    return read_ahead(items, options.processes if options.measure == "ours_processes" else 0)


def _torch_batches(options: argparse.Namespace) -> Iterator[Any]:
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.peers.torchvision_beside_torch import torchvision

    transforms = torchvision.transforms
    usual = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    bicubic = transforms.InterpolationMode.BICUBIC
    square = [transforms.Resize(SIZE, bicubic), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    steps = usual if options.measure == "torch" else square
    photos = torchvision.datasets.ImageFolder(options.folder / "photos/train", transforms.Compose(steps))
    repeated = torch.utils.data.ConcatDataset([photos] * (1 + options.batch * 100 // len(photos)))
    loader = DataLoader(repeated, options.batch, shuffle=True, num_workers=options.processes, drop_last=True)
    while True:
        yield from loader


if __name__ == "__main__":
    sys.exit(main())
