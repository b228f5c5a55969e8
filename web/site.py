"""Puts the page, a network and the libraries that run it into a folder, for any static host."""

import hashlib
import json
from pathlib import Path

from resnet.errors import UserError
from resnet.files import write_result
from resnet.onnx_classifier import OnnxClassifier

HERE = Path(__file__).parent
PAGE = HERE / "page"
PACKAGES = HERE / "node_modules"


def write_site(folder: Path, model: OnnxClassifier, name: str) -> Path:
    """Writes the page with the network `model` into `folder` and returns the path of its `index.html`.

    `name` is what the page calls the network.

    Raises:
        UserError: the libraries are not installed, or `folder` cannot be written.
    """
    copy_page(folder)
    network = model.path.read_bytes()
    write_result(folder / "network.onnx", network)
    description = {
        "name": name,
        "class_names": model.class_names,
        "image_size": model.image_size,
        "fit": model.fit,
        "crop": model.crop,
        "resample": model.resample,
        "precision": model.notes.get("precision", "float32"),
        "trained_on": model.notes.get("trained_on", ""),
        "no_sign": model.notes.get("no_sign"),
        "sha256": hashlib.sha256(network).hexdigest(),
    }
    write_result(folder / "network.json", json.dumps(description, ensure_ascii=False, indent=2) + "\n")
    return folder / "index.html"


def copy_page(folder: Path) -> None:
    """Copies the page and its libraries into `folder`, without a network.

    Raises:
        UserError: the libraries are not installed, or `folder` cannot be written.
    """
    libraries = library_files()
    for file in sorted(path for path in PAGE.rglob("*") if path.is_file()):
        write_result(folder / file.relative_to(PAGE), file.read_bytes())
    for name, file in libraries.items():
        write_result(folder / "runtime" / name, file.read_bytes())


def library_files() -> dict[str, Path]:
    """Returns the files of the libraries, by the names under which the page loads them.

    Raises:
        UserError: they are not installed.
    """
    names = json.loads((HERE / "package.json").read_text())["runtime"]
    files = {target: PACKAGES / source for target, source in names.items()}
    if missing := [path for path in files.values() if not path.is_file()]:
        raise UserError(
            f"{missing[0]}: no such file; the page needs its libraries: make web/node_modules/installed, or"
            f" npm ci in {HERE}"
        )
    return files
