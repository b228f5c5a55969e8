"""A browser for the tests of the web page, with a camera that sees a rendered hand."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.rendered.render import render
from resnet import Classifier, UserError
from tests.web.site import random_classifier, served, write_page
from web.site import library_files

GUIDE_SIDE = 274  # of 360 rows: GUIDE in camera.js
OpenPage = Callable[..., Any]


@pytest.fixture(scope="session")
def hand() -> np.ndarray:
    """The picture in the guide square of the camera, uint8 [274, 274, 3]."""
    return render(5, 0, 0, image_size=GUIDE_SIDE, variety=0.0)


@pytest.fixture(scope="session")
def video(hand: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose centre is a hand. Everything around it is noise, which must not be read."""
    frame = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    top, left = (360 - GUIDE_SIDE) // 2, (640 - GUIDE_SIDE) // 2
    frame[top : top + GUIDE_SIDE, left : left + GUIDE_SIDE] = hand
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "JPEG", quality=95, subsampling=0)
    path = tmp_path_factory.mktemp("video") / "hand.mjpeg"
    path.write_bytes(content.getvalue() * 2)
    return path


# For each file anew: while the browser runs, so does an event loop, and other tests start loops of their own.
@pytest.fixture(scope="module")
def browser(video: Path) -> Iterator[Any]:
    """Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("the tests of the page need chromium")
    try:
        library_files()
    except UserError as error:
        pytest.skip(str(error))
    arguments = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={video}"]
    with sync_api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=arguments, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """The classifier whose network the page has."""
    return random_classifier()


@pytest.fixture(scope="session")
def page_folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page; tests leave it as it is."""
    return write_page(tmp_path_factory.mktemp("web") / "page", classifier)


@pytest.fixture(scope="session")
def address(page_folder: Path) -> Iterator[str]:
    """Where the page is served."""
    with served(page_folder) as address:
        yield address


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[OpenPage]:
    """Opens the page, at another address if one is given; `options` are those of a browser's context.

    At the end, no script may have failed, no policy been violated, and no request left the origin.
    """
    contexts: list[Any] = []
    problems: list[str] = []
    origins = ["blob:"]

    def open_page(address: str = address, *, script: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        origins.append("/".join(address.split("/")[:3]))
        context.on("request", lambda request: problems.append(request.url) if is_foreign(request.url) else 0)
        context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Security Policy" in line.text else 0)
        page.goto(address)
        return page

    def is_foreign(url: str) -> bool:
        return not url.startswith(tuple(origins))

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
