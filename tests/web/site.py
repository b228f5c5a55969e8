"""The folder of the web page in tests: its own files, ONNX Runtime Web and a network of random weights."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from resnet import Classifier
from resnet.network import Weights
from tests.command_line import ROOT
from tests.resnet.networks import make_network

WEB = ROOT / "web"
CLASSES = ("null", "eins", "zwölf ✋")


def random_classifier(**preprocessing: Any) -> Classifier:
    """Returns a classifier of random weights, whose answers differ from picture to picture."""
    network = make_network(len(CLASSES), convolution="lax", **preprocessing)
    named = network.init(0).named()
    rng = np.random.default_rng(0)
    named["head.kernel"] = rng.standard_normal(named["head.kernel"].shape).astype(np.float32)
    return Classifier(network, Weights.from_named(named), CLASSES)


def settings_of(classifier: Classifier, **changes: Any) -> dict[str, Any]:
    """Returns what `network.json` says of the network, with `changes`."""
    preprocessing = classifier.network.preprocessing
    return {
        "name": "Random signs",
        "class_names": classifier.class_names,
        "image_size": preprocessing.image_size,
        "fit": preprocessing.fit,
        "crop": preprocessing.crop,
        "resample": preprocessing.resample,
        "precision": "float32",
        "trained_on": "Nothing: its weights are random.",
        "no_sign": None,
    } | changes


def runtime_files() -> dict[str, Path]:
    """Returns the files of npm's packages that the page needs, by their names in `runtime/`."""
    listed = json.loads((WEB / "package.json").read_text())["runtime"]
    return {name: WEB / "node_modules" / path for name, path in listed.items()}


def write_page(folder: Path, classifier: Classifier | None = None, **changes: Any) -> Path:
    """Writes the folder that is served, and returns it; `changes` are those of `settings_of`."""
    shutil.copytree(WEB / "page", folder)
    (folder / "runtime").mkdir()
    for name, path in runtime_files().items():
        shutil.copy(path, folder / "runtime" / name)
    if classifier:
        (folder / "network.json").write_text(json.dumps(settings_of(classifier, **changes)))
        classifier.export(folder, "onnx").rename(folder / "network.onnx")
    return folder


class _Handler(SimpleHTTPRequestHandler):
    """Serves files with the headers for threads, and with the page's policy for its worker too."""

    def end_headers(self) -> None:
        page = (Path(self.directory) / "index.html").read_text()
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
        assert policy, "the page has no Content-Security-Policy"
        self.send_header("Content-Security-Policy", policy[1])
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Keeps the terminal quiet."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine, and gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
