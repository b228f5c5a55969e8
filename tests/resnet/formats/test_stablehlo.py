"""A StableHLO program answers as the classifier does, with JAX and nothing of this project."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet import Classifier
from resnet.errors import UserError
from tests.resnet.formats.test_onnx import CLASSES, KERAS_V2, random_classifier
from tests.resnet.networks import make_network

LOADS = """
import json, sys
from pathlib import Path
import numpy as np
from jax import export
folder = Path(sys.argv[1])
program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
np.save(folder / "answers.npy", program.call(np.load(folder / "pictures.npy"))["probabilities"])
print(json.loads((folder / "model.json").read_text())["class_names"])
assert "cpu" in program.platforms and "cuda" in program.platforms and "tpu" in program.platforms
assert not [name for name in sys.modules if name.partition(".")[0] in ("resnet", "flax", "orbax")]
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"test_time_flip": True, "standardize": "image", "temperature": 0.5},
        {"depth": 50, **KERAS_V2},
        {"stem": "deep", "shortcut": "average_pool", "squeeze": 4, "image_size": 97},
    ],
    ids=str,
)
def test_it_is_loaded_by_jax_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    classifier = random_classifier(**changes)
    side = classifier.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    assert classifier.export(tmp_path, "stablehlo") == tmp_path / "model.stablehlo"
    command = [sys.executable, "-c", LOADS, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list(CLASSES))
    answers = np.load(tmp_path / "answers.npy")
    np.testing.assert_allclose(answers, classifier.probabilities(pictures), atol=1e-5)
    assert json.loads((tmp_path / "model.json").read_text())["model"]["depth"] == changes.get("depth", 18)


def test_what_it_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network(0)
    with pytest.raises(UserError, match=r"^--format=stablehlo: these weights have no head"):
        Classifier(network, network.init(0), ()).export(tmp_path, "stablehlo")
    monkeypatch.setattr("resnet.formats.stablehlo.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs the package flatbuffers; .*pip install flatbuffers$"):
        random_classifier().export(tmp_path, "stablehlo")
    assert list(tmp_path.iterdir()) == []
