"""Writes the golden files of tests/resnet/formats: narrow networks, saved by the frameworks themselves.

`python -m tests.peers.make_golden`, with the packages of the extra `peers`.
"""

import gzip
import shutil
import tempfile
from pathlib import Path

import numpy as np

from tests.peers import keras_networks, torch_networks
from tests.resnet.formats.test_golden import FOLDER, golden_images, summarized

CLASSES = 5
NETWORKS = {
    "timm_18.safetensors": lambda: torch_networks.narrow_timm_peer(2, CLASSES),
    "huggingface_50": lambda: torch_networks.huggingface_peer(50, CLASSES, width=2),
    "keras_50.h5": lambda: keras_networks.narrow_peer(1, 2, CLASSES),
    "keras_50v2.weights.h5": lambda: keras_networks.narrow_peer(2, 2, CLASSES),
    "keras_50_old.h5": lambda: keras_networks.old_peer(2, CLASSES),
}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    expected = {}
    for name, make in NETWORKS.items():
        peer = make()
        peer.round_to_half()
        for stage, values in summarized(peer.run(golden_images())).items():
            expected[f"{name}/{stage}"] = values
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / name
            peer.save(saved)
            for file in saved.iterdir() if saved.is_dir() else [saved]:
                target = FOLDER / file.relative_to(folder).with_name(file.name + ".gz")
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
