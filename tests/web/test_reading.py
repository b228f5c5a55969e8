"""What the page says of pictures and of the camera is what the classifier says."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet import Classifier
from tests.pictures import random_pictures
from tests.web.conftest import OpenPage
from tests.web.site import LATE_CAMERA, random_classifier, served, write_page

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of several sizes as PNG, one of them with see-through parts."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, pixels in enumerate(random_pictures(4)):
        image = Image.fromarray(pixels)
        if i == 3:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(folder / f"{i} ü.png")
        paths.append(folder / f"{i} ü.png")
    return paths


def probabilities_of(answer: Any) -> list[float]:
    """Returns the numbers behind the bars of an answer, from top to bottom."""
    return [float(value) for value in answer.locator("data").evaluate_all("data => data.map(d => d.value)")]


def choose(page: Any, files: list[Path]) -> Any:
    """Chooses files in the tab of pictures, and returns their answers once all are there."""
    page.get_by_role("tab", name="Pictures").click()
    page.locator("#files").set_input_files(files)
    answers = page.locator("#gallery .answer:visible")
    expect(answers).to_have_count(len(files), timeout=30_000)
    return answers


def test_probabilities_of_pictures_are_the_classifiers(
    open_page: OpenPage, classifier: Classifier, pictures: list[Path]
) -> None:
    answers = choose(open_page(), pictures)
    predictions = classifier.predict(pictures)
    for i, prediction in enumerate(predictions):
        expected = list(prediction.probabilities.values())
        assert probabilities_of(answers.nth(i)) == pytest.approx(expected, abs=1e-3)
        expect(answers.nth(i).locator(".sign")).to_have_text(prediction.label)
        expect(answers.nth(i).locator(".best .name")).to_have_text(prediction.label)
    assert np.ptp([list(p.probabilities.values()) for p in predictions], axis=0).max() > 0.01


def test_bars_are_as_long_as_the_probabilities(open_page: OpenPage, pictures: list[Path]) -> None:
    answer = choose(open_page(reduced_motion="reduce"), pictures[:1])
    shares = answer.locator(".bar").evaluate_all(
        "bars => bars.map(bar => parseFloat(getComputedStyle(bar, '::before').width) / bar.clientWidth)"
    )
    assert shares == pytest.approx(probabilities_of(answer), abs=0.01)


@pytest.mark.parametrize(
    "preprocessing",
    [{"fit": "pad", "image_size": 48}, {"fit": "stretch", "crop": 0.875, "resample": "lanczos"}],
    ids=lambda preprocessing: preprocessing["fit"],
)
def test_pictures_are_prepared_as_the_network_wants_them(
    open_page: OpenPage, pictures: list[Path], tmp_path: Path, preprocessing: dict[str, Any]
) -> None:
    classifier = random_classifier(**preprocessing)
    expected = list(classifier.predict(pictures[2:3])[0].probabilities.values())
    with served(write_page(tmp_path / "page", classifier)) as address:
        answer = choose(open_page(address), pictures[2:3])
        assert probabilities_of(answer) == pytest.approx(expected, abs=1e-3)


def test_a_photograph_on_its_side_is_turned_upright(
    open_page: OpenPage, classifier: Classifier, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(random_pictures(3)[2])
    picture.save(tmp_path / "turned.png", exif=exif)
    expected = list(classifier.predict([tmp_path / "turned.png"])[0].probabilities.values())
    answer = choose(open_page(), [tmp_path / "turned.png"])
    assert probabilities_of(answer) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_can_be_dropped_and_pasted(open_page: OpenPage, pictures: list[Path], event: str) -> None:
    page = open_page()
    content = base64.b64encode(pictures[0].read_bytes()).decode()
    page.evaluate(
        """async ([type, content]) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "given.png", { type: "image/png" }));
          const options = { bubbles: true, dataTransfer: data, clipboardData: data };
          const Event = type === "drop" ? DragEvent : ClipboardEvent;
          document.body.dispatchEvent(new Event(type, options));
        }""",
        [event, content],
    )
    expect(page.locator("#gallery .answer:visible")).to_have_count(1, timeout=30_000)
    expect(page.locator("#gallery")).to_contain_text("given.png")


def test_pictures_that_are_removed_are_not_read(open_page: OpenPage, pictures: list[Path]) -> None:
    page = open_page()
    page.evaluate(
        """() => {
          const create = window.createImageBitmap;
          window.decoded = 0;
          window.createImageBitmap = (...given) => {
            window.decoded += 1;
            if (window.decoded === 1) document.getElementById("clear").click();
            return create(...given);
          };
        }"""
    )
    page.get_by_role("tab", name="Pictures").click()
    page.locator("#files").set_input_files(pictures)
    page.wait_for_function("() => window.decoded === 1")
    choose(page, pictures[:1])
    expect(page.locator("#gallery-summary")).to_contain_text(f"{pictures[0].name}: ")
    assert page.evaluate("() => window.decoded") == 2


def test_the_camera_reads_what_is_inside_the_square_alone(
    open_page: OpenPage, classifier: Classifier, hand: np.ndarray
) -> None:
    page = open_page(permissions=["camera"])
    page.get_by_role("button", name="Start camera").click()
    answer = page.locator("#camera-answer")
    expect(answer.locator(".time")).to_contain_text("ms an image", timeout=30_000)
    expected = list(classifier.predict([hand])[0].probabilities.values())
    # The video was compressed, and its colours were halved in resolution.
    assert probabilities_of(answer) == pytest.approx(expected, abs=0.05)


def test_the_answer_goes_with_the_camera(open_page: OpenPage) -> None:
    page = open_page(permissions=["camera"])
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#announcement")).to_contain_text("%", timeout=30_000)
    expect(page.locator("#camera-hint")).to_be_hidden()
    page.get_by_role("button", name="Stop camera").click()
    expect(page.locator("#camera-answer")).to_be_hidden()
    expect(page.locator("#camera-hint")).to_be_visible()
    expect(page.locator("#announcement")).to_have_text("")
    page.wait_for_timeout(1000)
    expect(page.locator("#camera-answer")).to_be_hidden()
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#camera-answer")).to_be_visible(timeout=30_000)


def test_a_network_that_is_ready_before_the_camera_reads_each_frame_once(open_page: OpenPage) -> None:
    script = """
      const fetchAtOnce = window.fetch;
      window.fetch = async (...request) => {
        await new Promise((resolve) => (window.answer = resolve));
        return fetchAtOnce(...request);
      };
      let waiting = 0;
      window.mostWaiting = 0;
      const request = HTMLVideoElement.prototype.requestVideoFrameCallback;
      HTMLVideoElement.prototype.requestVideoFrameCallback = function (callback) {
        window.mostWaiting = Math.max(window.mostWaiting, ++waiting);
        return request.call(this, (...frame) => (waiting--, callback(...frame)));
      };
    """
    page = open_page(script=LATE_CAMERA + script, permissions=["camera"])
    page.get_by_role("button", name="Start camera").click()
    page.evaluate("starting")
    page.evaluate("answer()")
    expect(page.locator("#about")).to_be_visible(timeout=30_000)
    page.evaluate("letPlay()")
    expect(page.locator("#camera-answer")).to_be_visible(timeout=30_000)
    assert page.evaluate("mostWaiting") == 1


def test_screen_readers_hear_an_answer_once(open_page: OpenPage) -> None:
    page = open_page(permissions=["camera"])
    page.evaluate(
        """() => {
          window.spoken = [];
          const observer = new MutationObserver(() => spoken.push(announcement.textContent));
          observer.observe(announcement, { childList: true });
        }"""
    )
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#announcement")).to_contain_text("%", timeout=30_000)
    page.wait_for_timeout(1000)
    assert len(page.evaluate("spoken")) == 1


def test_an_unsure_answer_is_no_sign(
    open_page: OpenPage, classifier: Classifier, pictures: list[Path], tmp_path: Path
) -> None:
    rule = {"threshold": 1.0, "signs_rejected": 0.05, "others_accepted": 0.12}
    with served(write_page(tmp_path / "page", classifier, no_sign=rule)) as address:
        page = open_page(address)
        answer = choose(page, pictures[:1])
        expect(answer.locator(".sign")).to_have_text("No sign")
        page.get_by_text("About this network").click()
        expect(page.locator("#facts")).to_contain_text("5% of pictures of signs")
        expect(page.locator("#facts")).to_contain_text("12% of other pictures")


def test_of_many_classes_the_five_most_probable_are_shown(open_page: OpenPage) -> None:
    names = [f"class {i}" for i in range(9)] + ["<b>größte</b> " * 9]
    shares = np.random.default_rng(0).permutation(10) / 45
    shown = open_page().evaluate(
        """async ([settings, probabilities]) => {
          const { Answer } = await import("./answer.js");
          const root = document.getElementById("camera-answer");
          new Answer(root, settings).show({ probabilities, milliseconds: 3 });
          return [...root.querySelectorAll("li")].map((row) => row.querySelector(".name").textContent);
        }""",
        [{"class_names": names, "no_sign": None}, shares.tolist()],
    )
    assert shown == [names[i] for i in np.argsort(-shares)[:5]]


def test_threads_are_used_where_the_headers_allow_them(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#about")).to_be_visible(timeout=30_000)
    threads = min(page.evaluate("navigator.hardwareConcurrency"), 4)
    expect(page.locator("#facts")).to_contain_text("one thread" if threads == 1 else f"{threads} threads")


def test_a_policy_keeps_requests_inside_of_the_origin(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}network.json")
    violated = page.evaluate(
        """() => new Promise((resolve) => {
          addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          fetch("http://127.0.0.1:1/").catch(() => setTimeout(() => resolve("nothing"), 1000));
        })"""
    )
    assert violated == "connect-src"
    page.close()
