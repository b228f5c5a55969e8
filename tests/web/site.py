"""The folder of the web page in tests: its own files, ONNX Runtime Web and a network of random weights."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from resnet import Classifier
from resnet.formats.onnx_model import OnnxOptions
from resnet.network import Weights
from resnet.onnx_classifier import OnnxClassifier
from tests.command_line import ROOT
from tests.resnet.networks import make_network
from web.server import make_server
from web.site import copy_page, write_site

WEB = ROOT / "web"
CLASSES = ("null", "eins", "zwölf ✋")
LATE_CAMERA = """
const mayPlay = new Promise((resolve) => (window.letPlay = resolve));
window.starting = new Promise((resolve) => {
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = async function () {
    resolve();
    await mayPlay;
    return play.call(this);
  };
});
"""  # Once `starting` has resolved, the camera is starting, and waits for `letPlay()`.


def random_classifier(**preprocessing: Any) -> Classifier:
    """Returns a classifier of random weights, whose answers differ from picture to picture."""
    network = make_network(len(CLASSES), convolution="lax", **preprocessing)
    named = network.init(0).named()
    rng = np.random.default_rng(0)
    named["head.kernel"] = rng.standard_normal(named["head.kernel"].shape).astype(np.float32)
    return Classifier(network, Weights.from_named(named), CLASSES)


def write_page(folder: Path, classifier: Classifier | None = None, **changes: Any) -> Path:
    """Writes the folder that is served, and returns it; `changes` are those of `network.json`."""
    if classifier is None:
        copy_page(folder)
        return folder
    notes = {"precision": "float32", "trained_on": "Nothing: its weights are random.", "no_sign": None}
    model = classifier.export(folder.parent / "exported", "onnx", OnnxOptions(notes=notes))
    write_site(folder, OnnxClassifier(model), "Random signs")
    settings = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(settings | changes))
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine, and gives its address."""
    with make_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
