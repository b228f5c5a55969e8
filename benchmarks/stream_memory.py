"""Memory of a training on more images than are to be held in it: `python -m benchmarks.stream_memory`.

The images are rendered hands, enlarged, with noise: 8 GB of pixels in records of 224x224. Making them needs
twice that on the disk, which is free again at the end. Each second we look at the memory of the training's
process: all that is resident, and the part of it that belongs to no file. The start reads all images once.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.rounds import process_failed
from datasets.decoding import Square
from datasets.records import pack
from datasets.rendered.render import CLASS_NAMES, render
from resnet.files import write_json

SIZE = 224
HANDS = 120  # different ones; each image has noise of its own
SHOWN = 12  # lines of the table


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    parser = command_line.parser(__doc__, device=False)
    parser.add_argument("--gigabytes", type=at_least(1), default=8, help="of pixels")
    parser.add_argument(
        "--seconds", type=at_least(30), default=300, help="from its start until it is stopped"
    )
    options = parser.parse_args()
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    count = options.gigabytes * 10**9 // (3 * SIZE**2)
    with tempfile.TemporaryDirectory(prefix="stream-memory-") as name:
        folder = Path(name)
        _write_pictures(folder / "photos", count)
        print(f"packing {count:,} images", flush=True)
        pack(str(folder / "photos"), folder / "records", Square(SIZE, 1.0, "crop"))
        shutil.rmtree(folder / "photos")
        samples = _train(folder, options)
    peak = max(total for _, total, _ in samples)
    shown = samples[:: -(-len(samples) // SHOWN)]
    rows = [[f"{seconds:.0f}", *(f"{value / 1e6:.0f}" for value in sizes)] for seconds, *sizes in shown]
    print(tabulate(rows, ["seconds", "MB resident", "MB of no file"]))
    print(f"peak {peak / 1e6:.0f} MB, for {count * 3 * SIZE**2 / 1e9:.1f} GB of images")
    if options.json:
        write_json(
            options.json, {"benchmark": "stream_memory", **stamp(), "images": count, "samples": samples}
        )


def _write_pictures(folder: Path, count: int) -> None:
    """Writes bitmaps of `SIZE` x `SIZE` pixels. No two have the same noise."""
    rng = np.random.default_rng(0)
    hands = [
        np.asarray(Image.fromarray(render(i % 6, i, 0, image_size=64)).resize((SIZE, SIZE)))
        for i in range(HANDS)
    ]
    for i in tqdm(range(count), unit="image", disable=None, leave=False):
        file = folder / "train" / CLASS_NAMES[i % len(CLASS_NAMES)] / f"{i:06}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 32, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(hands[i % HANDS] // 8 * 7 + noise).save(file)


def _train(folder: Path, options: argparse.Namespace) -> list[tuple[float, int, int]]:
    """Trains a small network; returns samples of seconds, resident bytes, and bytes of no file."""
    command = [
        *(sys.executable, "main.py", "--config=configs/folder.py", f"--workdir={folder / 'run'}"),
        *(f"--config.data.dir={folder / 'records'}", "--config.data.placement=stream"),
        *(f"--config.data.image_size={SIZE}", "--config.data.store_size=0", "--config.data.val_fraction=0"),
        *("--config.data.test_fraction=0", "--config.augment.resized_crop=0", "--config.model.depth=18"),
        *("--config.model.width=8", "--config.num_epochs=1"),
    ]
    samples = []
    started = time.perf_counter()
    with open(folder / "messages", "w+") as messages:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "cache")}
        process = subprocess.Popen(command, stdout=messages, stderr=subprocess.STDOUT, env=environment)
        is_stopped = False
        while process.poll() is None:
            if not is_stopped and time.perf_counter() - started > options.seconds:
                process.terminate()  # Once: the training saves first, and a second signal would kill it.
                is_stopped = True
            status = Path(f"/proc/{process.pid}/status").read_text()
            sizes = {name: int(value.split()[0]) * 1024 for name, value in _fields(status)}
            if "VmRSS" in sizes:
                samples.append((time.perf_counter() - started, sizes["VmRSS"], sizes["RssAnon"]))
            time.sleep(1)
        if process.returncode not in (0, 128 + signal.SIGTERM):
            messages.seek(0)
            raise process_failed("the training", process.returncode, messages.read())
    return samples


def _fields(status: str) -> list[tuple[str, str]]:
    """Returns the lines `NAME: NUMBER kB` of a process's status."""
    fields = (line.split(":", 1) for line in status.splitlines())
    return [(name, value) for name, value in fields if value.endswith("kB")]


if __name__ == "__main__":
    sys.exit(main())
