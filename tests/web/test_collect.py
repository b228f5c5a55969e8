"""Pictures are taken by class, downloaded as a zip, and trained on."""

import base64
import io
import os
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.command_line import ROOT, flags_of, run_program
from tests.quick_compilation import QUICK_XLA_FLAGS
from tests.runs import NO_RESAMPLING, SMALL
from tests.web.conftest import OpenPage
from tests.web.site import CLASSES, LATE_CAMERA

expect = pytest.importorskip("playwright.sync_api").expect

COLLECTED_ZIP = """async (classes) => {
  const { Collection } = await import("./collection.js");
  const collection = new Collection();
  for (const [label, [name, count]] of classes.entries()) {
    collection.addClass(name);
    for (let i = 0; i < count; i++) {
      const canvas = new OffscreenCanvas(40, 40);
      const context = canvas.getContext("2d");
      context.fillStyle = `hsl(${40 * i} 50% 50%)`;
      context.fillRect(0, 0, 40, 40);
      context.fillStyle = "white";
      context.fillRect(i, 15 * label, 20, 10);
      collection.addPicture(collection.classes[label], await canvas.convertToBlob());
    }
  }
  const bytes = new Uint8Array(await (await collection.zip()).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture
def page(open_page: OpenPage) -> Any:
    """The tab Collect, with the network's classes and a camera that runs."""
    page = open_page(permissions=["camera"])
    page.get_by_role("tab", name="Collect").click()
    expect(page.locator("#classes > li")).to_have_count(len(CLASSES))
    page.get_by_role("button", name="Start camera").click()
    expect(page.get_by_role("button", name="Stop camera")).to_be_visible(timeout=30_000)
    return page


@pytest.fixture
def collected_zip(open_page: OpenPage, address: str) -> Callable[[dict[str, int]], bytes]:
    """Makes the zip of classes with so many drawn pictures."""

    def collected_zip(counts: dict[str, int]) -> bytes:
        page = open_page(f"{address}network.json")  # which starts nothing
        return base64.b64decode(page.evaluate(COLLECTED_ZIP, list(counts.items())))

    return collected_zip


def card(page: Any, index: int) -> Any:
    return page.locator("#classes > li").nth(index)


def count_in(page: Any, index: int) -> int:
    """Returns the number of pictures that the card of a class states."""
    return int(card(page, index).locator(".count").inner_text().split()[0])


def take(page: Any, index: int, at_least: int = 2) -> None:
    """Holds the button of a class, again if need be, until it has pictures."""
    deadline = time.monotonic() + 60
    while count_in(page, index) < at_least:
        assert time.monotonic() < deadline, f"{count_in(page, index)} pictures after a minute"
        page.locator("#taken").evaluate("(taken) => { taken.textContent = ''; }")
        # Unlike the steps of a mouse, a click makes sure that the button is still where it was.
        card(page, index).locator(".hold").click(delay=500)
        # Once it is announced, the last picture has arrived.
        expect(page.locator("#taken")).to_have_text(re.compile(f"^{CLASSES[index]}: "))


def download(page: Any) -> zipfile.ZipFile:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download zip").click()
    assert waiting.value.suggested_filename == "collected.zip"
    return zipfile.ZipFile(waiting.value.path())


def test_the_zip_holds_what_was_taken(page: Any, hand: np.ndarray) -> None:
    page.keyboard.down("1")
    expect(card(page, 0).locator(".thumbnails li").nth(1)).to_be_visible(timeout=30_000)
    page.keyboard.up("1")
    take(page, 2)
    archive = download(page)
    expected = [f"{CLASSES[i]}/{n + 1:04}.png" for i in (0, 2) for n in range(count_in(page, i))]
    assert archive.namelist() == expected
    with Image.open(io.BytesIO(archive.read(expected[0]))) as picture:
        assert picture.size == (256, 256)
        shrunk = np.array(picture.convert("RGB").resize((32, 32))).astype(int)
    original = np.array(Image.fromarray(hand).resize((32, 32)))
    # The video's colours differ a little. The noise around the square would be 60 levels off.
    assert np.abs(shrunk - original).mean() < 20


def test_pictures_can_be_taken_back(page: Any) -> None:
    take(page, 1, at_least=3)
    count = count_in(page, 1)
    expect(page.locator("#taken")).to_have_text(f"eins: {count} pictures")
    card(page, 1).get_by_role("button", name="Undo").click()
    card(page, 1).get_by_role("button", name="Delete this picture").first.click()
    assert count_in(page, 1) == count - 2
    assert len(download(page).namelist()) == count - 2
    page.once("dialog", lambda dialog: dialog.accept())
    card(page, 1).get_by_role("button", name="Remove class eins").click()
    expect(page.locator("#collected")).to_have_text("0 pictures.")


def test_a_picture_that_arrives_late_is_counted(page: Any) -> None:
    page.evaluate(
        """() => {
          const toBlob = HTMLCanvasElement.prototype.toBlob;
          HTMLCanvasElement.prototype.toBlob = function (callback, type) {
            toBlob.call(this, (blob) => setTimeout(() => callback(blob), 1000), type);
          };
        }"""
    )
    take(page, 1)
    assert page.locator("#taken").inner_text() == f"eins: {count_in(page, 1)} pictures"


def test_without_the_camera_nothing_is_taken(page: Any) -> None:
    page.get_by_role("button", name="Stop camera").click()
    page.keyboard.press("1")
    expect(page.locator("#collect-message")).to_have_text("Start the camera first.")


def test_while_the_camera_starts_nothing_is_taken(open_page: OpenPage) -> None:
    page = open_page(script=LATE_CAMERA, permissions=["camera"])
    page.get_by_role("tab", name="Collect").click()
    expect(page.locator("#classes > li")).to_have_count(len(CLASSES))
    page.get_by_role("button", name="Start camera").click()
    page.evaluate("starting")
    page.keyboard.press("1")
    expect(page.locator("#collect-message")).to_have_text("Start the camera first.")
    page.evaluate("letPlay()")
    take(page, 0)
    assert len(download(page).namelist()) == count_in(page, 0)


def test_a_picture_that_the_browser_does_not_give_is_said(page: Any) -> None:
    page.evaluate(
        """() => {
          const toBlob = HTMLCanvasElement.prototype.toBlob;
          HTMLCanvasElement.prototype.toBlob = function (callback) {
            HTMLCanvasElement.prototype.toBlob = toBlob;
            callback(null);
          };
        }"""
    )
    card(page, 0).locator(".hold").click(delay=500)
    expect(page.locator("#collect-message")).to_contain_text("The picture could not be taken.")
    assert count_in(page, 0) == 0
    take(page, 0)
    expect(page.locator("#collect-message")).to_have_text("")


def test_a_zip_that_cannot_be_made_is_said(page: Any) -> None:
    take(page, 0)
    page.evaluate("() => { Blob.prototype.arrayBuffer = async () => { throw new RangeError('no memory'); } }")
    page.get_by_role("button", name="Download zip").click()
    expect(page.locator("#collect-message")).to_contain_text("Something went wrong")
    expect(page.locator("#collect-message")).to_contain_text("no memory")


def test_classes_are_added_and_renamed(page: Any) -> None:
    page.get_by_label("New class").fill("drei: 3/4?")
    page.keyboard.press("Enter")
    expect(card(page, 3).locator(".folder")).to_have_text("Its folder will be drei_ 3_4_")
    card(page, 0).locator(".class-name").fill("zero")
    page.keyboard.press("Tab")
    expect(card(page, 0).get_by_label("Name of class zero")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("  ", "A class needs a name."), ("EINS", "“EINS” would go into the same folder as “eins”.")],
)
def test_names_that_are_refused(page: Any, name: str, sentence: str) -> None:
    page.get_by_label("New class").fill(name)
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#collect-message")).to_contain_text(sentence)
    expect(page.locator("#classes > li")).to_have_count(len(CLASSES))
    card(page, 0).locator(".class-name").fill(name)
    page.keyboard.press("Tab")
    expect(page.locator("#collect-message")).to_contain_text(sentence)
    expect(card(page, 0).locator(".class-name")).to_have_value("null")


def test_leaving_with_pictures_that_were_not_downloaded_warns(page: Any) -> None:
    warnings = []
    page.on("dialog", lambda dialog: (warnings.append(dialog.type), dialog.dismiss()))
    take(page, 0)
    page.evaluate("setTimeout(() => location.reload())")
    page.wait_for_event("dialog")
    assert warnings == ["beforeunload"]
    download(page)
    page.reload()
    assert warnings == ["beforeunload"]


def test_names_are_made_safe_as_folders(collected_zip: Callable[[dict[str, int]], bytes]) -> None:
    names = ("../up", ".hidden", "test", "NUL", "a/b\\c", "end. ", "größe", "手" * 99, "a\tb")
    archive = zipfile.ZipFile(io.BytesIO(collected_zip(dict.fromkeys(names, 1))))
    folders = [name.removesuffix("/0001.png") for name in archive.namelist()]
    assert folders == ["_._up", "_hidden", "_test", "_NUL", "a_b_c", "end_", "größe", "手" * 60, "a_b"]


def test_the_zip_can_be_trained_on(collected_zip: Callable[[dict[str, int]], bytes], tmp_path: Path) -> None:
    (tmp_path / "collected.zip").write_bytes(collected_zip({"test": 9, "größe ✋": 9}))
    fields = (
        SMALL
        | NO_RESAMPLING
        | {
            "model.depth": 16,
            "num_epochs": 2,
            "batch_size": 8,
            "data.dir": tmp_path / "collected.zip",
            "data.store_size": 40,
            "data.image_size": 32,
            "augment.appearance": 0.0,
            "compilation_cache": False,
        }
    )
    config = f"--config={ROOT / 'configs' / 'folder.py'}"
    result = run_program(
        "main.py",
        config,
        *flags_of(fields),
        f"--workdir={tmp_path / 'run'}",
        environment=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_XLA_FLAGS},
    )
    assert result.returncode == 0, result.stderr
    assert "18 images of 2 classes in class folders" in result.stdout + result.stderr
