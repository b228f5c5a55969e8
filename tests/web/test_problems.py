"""Each thing that can go wrong is one clear sentence in the page."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from resnet import Classifier
from tests.damages import put_in_place
from tests.pictures import random_pictures
from tests.web.conftest import OpenPage
from tests.web.site import served, write_page

expect = pytest.importorskip("playwright.sync_api").expect

OUT_OF_MEMORY = """
export const env = { wasm: {} };
export const InferenceSession = { create() { throw new RangeError("could not allocate memory"); } };
"""
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no network": (lambda page: (page / "network.json").unlink(), "There is no network in this folder yet"),
    "settings cut": (lambda page: put_in_place(page / "network.json", "cut"), "network.json is damaged"),
    "settings incomplete": (
        lambda page: (page / "network.json").write_text('{"class_names": []}'),
        "network.json is damaged",
    ),
    "network missing": (lambda page: (page / "network.onnx").unlink(), "network.onnx is missing"),
    "network cut": (lambda page: put_in_place(page / "network.onnx", "cut"), "network.onnx is damaged"),
    "network empty": (lambda page: put_in_place(page / "network.onnx", "empty"), "network.onnx is damaged"),
    "runtime missing": (
        lambda page: (page / "runtime" / "ort.wasm.bundle.min.mjs").unlink(),
        "The folder runtime/ beside this page is incomplete",
    ),
    "too large": (
        lambda page: (page / "runtime" / "ort.wasm.bundle.min.mjs").write_text(OUT_OF_MEMORY),
        "too large for the memory",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_network_that_cannot_be_loaded(
    open_page: OpenPage, page_folder: Path, tmp_path: Path, damage: str
) -> None:
    break_page, sentence = DAMAGES[damage]
    shutil.copytree(page_folder, tmp_path / "page")
    break_page(tmp_path / "page")
    with served(tmp_path / "page") as address:
        page = open_page(address)
        expect(page.get_by_text(sentence)).to_be_visible(timeout=30_000)
        page.get_by_role("tab", name="Collect").click()
        expect(page.get_by_role("button", name="Add")).to_be_enabled()


def test_a_network_of_other_classes(open_page: OpenPage, classifier: Classifier, tmp_path: Path) -> None:
    with served(write_page(tmp_path / "page", classifier, class_names=["one", "two"])) as address:
        page = open_page(address)
        expect(page.get_by_text("network.onnx does not belong to network.json")).to_be_visible(timeout=30_000)


CAMERA_SENTENCES = {
    "NotAllowedError": "The camera was refused.",
    "NotFoundError": "There is no camera.",
    "NotReadableError": "The camera is busy",
}


@pytest.mark.parametrize("error", CAMERA_SENTENCES)
def test_a_camera_that_does_not_start(open_page: OpenPage, error: str) -> None:
    failure = f"async () => {{ throw new DOMException('', '{error}'); }}"
    page = open_page(script=f"navigator.mediaDevices.getUserMedia = {failure}")
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#camera-message")).to_contain_text(CAMERA_SENTENCES[error])
    expect(page.get_by_role("button", name="Start camera")).to_be_visible()


def test_a_camera_that_the_user_does_not_allow(open_page: OpenPage) -> None:
    page = open_page(permissions=[])
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#camera-message")).to_contain_text("The camera was refused.")


def test_files_that_are_no_pictures(open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    Image.fromarray(random_pictures(1)[0]).save(tmp_path / "cut.png")
    put_in_place(tmp_path / "cut.png", "cut")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    page = open_page()
    page.get_by_role("tab", name="Pictures").click()
    page.locator("#files").set_input_files([tmp_path / name for name in ("notes.txt", "cut.png", "huge.png")])
    errors = page.locator("#gallery .error")
    expect(errors).to_have_count(3, timeout=30_000)
    expect(errors.nth(0)).to_contain_text("notes.txt is no picture")
    expect(errors.nth(1)).to_contain_text("cut.png is damaged")
    expect(errors.nth(2)).to_contain_text("huge.png has 100 megapixels, and this page reads at most 64.")


@pytest.mark.parametrize(
    "script", ["delete HTMLScriptElement.prototype.noModule", "WebAssembly.validate = () => false"]
)
def test_an_old_browser(open_page: OpenPage, script: str) -> None:
    page = open_page(script=script)
    expect(page.get_by_role("alert").get_by_text("This browser is too old")).to_be_visible()
    expect(page.get_by_role("main")).to_be_hidden()


def test_a_page_opened_as_a_file_says_how_to_serve_it(open_page: OpenPage, page_folder: Path) -> None:
    page = open_page((page_folder / "index.html").as_uri())
    expect(page.get_by_text("python -m http.server")).to_be_visible()


def test_a_browser_without_scripts(open_page: OpenPage) -> None:
    page = open_page(java_script_enabled=False)
    expect(page.locator("noscript p")).to_contain_text("This page needs JavaScript.")
    expect(page.locator("noscript p")).to_be_visible()
