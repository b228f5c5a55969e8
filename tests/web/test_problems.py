"""Each thing that can go wrong is one clear sentence in the page."""

import http.client
import http.server
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from resnet import Classifier
from resnet.network import Weights
from tests.damages import put_in_place
from tests.pictures import random_pictures
from tests.web.conftest import OpenPage
from tests.web.site import random_classifier, served, write_page

expect = pytest.importorskip("playwright.sync_api").expect

OUT_OF_MEMORY = """
export const env = { wasm: {} };
export const InferenceSession = { create() { throw new RangeError("could not allocate memory"); } };
"""


def exchange_network(page: Path) -> None:
    """Puts a network of the same shapes and classes in place of the page's own."""
    shutil.copy(random_classifier(fit="pad").export(page.parent / "other", "onnx"), page / "network.onnx")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no network": (lambda page: (page / "network.json").unlink(), "There is no network in this folder yet"),
    "settings cut": (lambda page: put_in_place(page / "network.json", "cut"), "network.json is damaged"),
    "settings incomplete": (
        lambda page: (page / "network.json").write_text('{"class_names": []}'),
        "network.json is damaged",
    ),
    "network exchanged": (
        exchange_network,
        "network.onnx and network.json do not belong together",
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
        sentence = "network.onnx and network.json do not belong together"
        expect(page.get_by_text(sentence)).to_be_visible(timeout=30_000)


def test_a_network_whose_answers_are_no_numbers(
    open_page: OpenPage, classifier: Classifier, tmp_path: Path
) -> None:
    named = classifier.weights.named()
    named["head.kernel"] = np.full_like(named["head.kernel"], np.nan)
    broken = classifier.with_weights(Weights.from_named(named))
    with served(write_page(tmp_path / "page", broken)) as address:
        page = open_page(address)
        expect(page.get_by_text("numbers that are no probabilities")).to_be_visible(timeout=30_000)


def test_a_connection_that_is_cut(open_page: OpenPage, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def send_half(handler: Any, source: Any, output: Any) -> None:
        content = source.read()
        output.write(content[: len(content) // 2] if handler.path == "/network.onnx" else content)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", send_half)
    expect(open_page(address).get_by_text("The connection was cut")).to_be_visible(timeout=30_000)


@pytest.mark.parametrize("missing", ["main.js", "camera.js", "runtime"])
def test_a_page_that_was_copied_in_part(
    open_page: OpenPage, page_folder: Path, tmp_path: Path, missing: str
) -> None:
    shutil.copytree(page_folder, tmp_path / "page")
    (tmp_path / "page" / missing).rename(tmp_path / "elsewhere")
    with served(tmp_path / "page") as address:
        page = open_page(address)
        expect(page.get_by_role("alert").get_by_text("A file of this page is missing")).to_be_visible()
        expect(page.get_by_role("main")).to_be_hidden()


def test_scripts_that_are_served_as_text(
    open_page: OpenPage, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = http.server.SimpleHTTPRequestHandler
    guess = handler.guess_type
    monkeypatch.setattr(
        handler, "guess_type", lambda self, path: "text/plain" if path.endswith(".js") else guess(self, path)
    )
    alert = open_page(address).get_by_role("alert")
    expect(alert.get_by_text("its server sends .js files as another type")).to_be_visible()


def test_an_error_that_the_page_does_not_expect(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate(
        """() => {
          const event = { promise: Promise.resolve(), reason: new TypeError("a is no b") };
          dispatchEvent(new PromiseRejectionEvent("unhandledrejection", event));
        }"""
    )
    expect(page.locator("#problem")).to_contain_text(
        "Something went wrong that this page does not expect (a is no b)."
    )


def test_the_camera_says_an_error_that_the_page_does_not_expect(open_page: OpenPage) -> None:
    failure = "async () => { throw new TypeError('a is no b'); }"
    page = open_page(script=f"window.createImageBitmap = {failure}", permissions=["camera"])
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#camera-message")).to_contain_text("(a is no b)", timeout=30_000)
    expect(page.get_by_role("button", name="Start camera")).to_be_visible()


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1.attacker.example:80", "0.0.0.0", ""])
def test_requests_under_the_name_of_another_site_are_refused(address: str, host: str) -> None:
    assert status_of(address, host) == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "LOCALHOST", "localhost:80", "[::1]:8000"])
def test_requests_under_the_names_of_this_machine_are_answered(address: str, host: str) -> None:
    assert status_of(address, host) == 200


def status_of(address: str, host: str) -> int:
    """Returns the status of the answer to a request under the name `host`."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    with closing(connection):
        connection.request("GET", "/network.json", headers={"Host": host})
        return connection.getresponse().status


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


def test_after_an_error_that_the_page_does_not_expect_the_next_picture_is_read(
    open_page: OpenPage, tmp_path: Path
) -> None:
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path in paths:
        Image.fromarray(random_pictures(1)[0]).save(path)
    page = open_page()
    page.evaluate(
        """() => {
          const draw = CanvasRenderingContext2D.prototype.drawImage;
          CanvasRenderingContext2D.prototype.drawImage = function () {
            CanvasRenderingContext2D.prototype.drawImage = draw;
            throw new TypeError("a is no b");
          };
        }"""
    )
    page.get_by_role("tab", name="Pictures").click()
    page.locator("#files").set_input_files(paths)
    expect(page.locator("#gallery > li").nth(0).locator(".error")).to_contain_text(
        "(a is no b)", timeout=30_000
    )
    expect(page.locator("#gallery > li").nth(1).locator(".sign")).to_be_visible(timeout=30_000)


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
