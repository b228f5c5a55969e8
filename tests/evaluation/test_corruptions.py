"""Corruptions: always the same, each severity worse, and each what its name says."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.rendered.render import render
from datasets.types import Split
from evaluation.corruptions import EXTRA, SEVERITIES, STANDARD, corrupt, draw_sheet, evaluate_corruptions
from modes.eval import format_corruptions
from tests.command_line import run_program

ALL = [*STANDARD, *EXTRA]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Three rendered hands of 64x64."""
    return np.stack([render(label, label, seed=0) for label in (1, 3, 5)])


def test_there_are_the_fifteen_of_imagenet_c_and_four_more() -> None:
    assert (len(STANDARD), len(EXTRA)) == (15, 4)
    assert not STANDARD.keys() & EXTRA.keys()


@pytest.mark.parametrize("name", ALL)
def test_same_every_time_whatever_else_is_corrupted(images: np.ndarray, name: str) -> None:
    before = images.copy()
    once = corrupt(images, name, 3)
    assert (once.dtype, once.shape) == (np.uint8, images.shape)
    np.testing.assert_array_equal(corrupt(images, name, 3), once)
    np.testing.assert_array_equal(corrupt(images[:2], name, 3), once[:2])
    np.testing.assert_array_equal(images, before)
    np.random.seed(5)
    np.testing.assert_array_equal(corrupt(images, name, 3), once)


# Some change two things at once, such as less light and more ice: between neighbours they may dip.
@pytest.mark.parametrize("name", ALL)
def test_severities_grow(images: np.ndarray, name: str) -> None:
    distance = [
        float(np.sqrt(np.mean((corrupt(images, name, severity) - images.astype(float)) ** 2)))
        for severity in SEVERITIES
    ]
    assert min(distance) > 0.5
    if name not in ("frost", "spatter", "saturate", "glass_blur", "elastic_transform"):
        assert distance == sorted(distance)
        assert distance[-1] > 1.2 * distance[0]


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("name", ALL)
def test_other_sizes_and_plain_images(name: str, side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    with np.errstate(all="raise"):
        assert (corrupt(noise, name, 5) != noise).any()
        for value in (0, 255):
            plain = np.full_like(noise, value)
            assert corrupt(plain, name, 5).shape == plain.shape


def test_a_tiny_image_may_have_no_frost() -> None:
    with np.errstate(all="raise"):
        assert corrupt(np.full((50, 4, 4, 3), 128, np.uint8), "frost", 1).shape == (50, 4, 4, 3)


def test_random_draws_differ_between_images_and_seeds(images: np.ndarray) -> None:
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    noise = corrupt(grey, "gaussian_noise", 1).astype(int) - 128
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    assert (corrupt(grey, "gaussian_noise", 1, seed=1) != corrupt(grey, "gaussian_noise", 1)).any()


def test_noise_has_its_stated_strength() -> None:
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    spread = [corrupt(grey, name, 3).astype(float).std() / 255 for name in ("gaussian_noise", "shot_noise")]
    assert spread[0] == pytest.approx(0.12, rel=0.03)
    assert spread[1] == pytest.approx(
        np.sqrt(128 / 255 / 50), rel=0.03
    )  # Poisson: variance is mean / photons
    hit = corrupt(grey, "impulse_noise", 5) != 128
    assert hit.mean() == pytest.approx(0.14, rel=0.05)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur", "glass_blur", "zoom_blur"])
def test_blurs_keep_the_mean_and_lose_detail(images: np.ndarray, name: str) -> None:
    def detail(images: np.ndarray) -> float:
        return float(np.abs(np.diff(images.astype(float), axis=1)).mean())

    blurred = corrupt(images, name, 4)
    # A zoom shows more of the middle, which has the hand.
    assert blurred.mean() == pytest.approx(images.mean(), rel=0.06 if name == "zoom_blur" else 0.01)
    assert detail(blurred) < 0.8 * detail(images)


def test_defocus_spreads_a_point_over_a_disk() -> None:
    point = np.zeros((1, 65, 65, 3), np.uint8)
    point[0, 32, 32] = 255
    spread = corrupt(point, "defocus_blur", 5)[0, :, :, 0].astype(float) / 255
    rows, columns = np.nonzero(spread > 0.002)
    radius = 3.0 * 65 / 64
    assert np.hypot(rows - 32, columns - 32).max() < radius + 0.75
    assert spread[32, 32] == pytest.approx(1 / (np.pi * radius**2), abs=0.004)


def test_contrast_and_brightness_by_hand(images: np.ndarray) -> None:
    mean = images.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(corrupt(images, "contrast", 2), mean + (images - mean) * 0.3, atol=0.51)
    brighter = corrupt(images, "brightness", 1)
    np.testing.assert_allclose(
        brighter.max(-1), np.minimum(images.max(-1) + 25.5, 255), atol=0.51
    )  # the value of HSV


def test_saturation_goes_and_comes(images: np.ndarray) -> None:
    def saturation(images: np.ndarray) -> float:
        return float((np.ptp(images.astype(float), axis=-1) / np.maximum(images.max(-1), 1)).mean())

    saturations = [saturation(corrupt(images, "saturate", severity)) for severity in SEVERITIES]
    before = saturation(images)
    assert saturations[0] == pytest.approx(0.3 * before, rel=0.1)
    assert saturations[1] < saturations[0] < before < saturations[2] < saturations[3] < saturations[4]


def test_pixelate_and_jpeg_are_pillows(images: np.ndarray) -> None:
    picture = Image.fromarray(images[0])
    half = picture.resize((32, 32), Image.Resampling.BOX).resize((64, 64), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(corrupt(images, "pixelate", 5)[0], half)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=25)
    np.testing.assert_array_equal(corrupt(images, "jpeg_compression", 5)[0], Image.open(content))


def test_the_module_writes_a_sheet(images: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "hand.png")
    hand = tmp_path / "hand.png"
    assert run_program("-m", "evaluation.corruptions", hand, tmp_path / "sheet.png").returncode == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 64, len(ALL) * 64)
    refused = run_program("-m", "evaluation.corruptions", f"{hand}.lost", "x.png")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "hand.png.lost: no such file" in refused.stderr


def test_sheet_has_a_row_each(images: np.ndarray) -> None:
    sheet = draw_sheet(images[0])
    assert sheet.size == (6 * 64, len(ALL) * 64)
    np.testing.assert_array_equal(np.asarray(sheet)[64:128, :64], images[0])


def test_corruptions_are_counted_by_kind_and_severity() -> None:
    # A classifier of bright against dark: contrast cannot fool it, brightness does at last.
    images = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (0, 60, 200, 250)])
    split = Split(images, np.array([0, 0, 1, 1]))

    def predict(images: np.ndarray) -> np.ndarray:
        bright = images.mean((1, 2, 3)) > 127
        return np.stack([~bright, bright], 1).astype(np.float32)

    result = evaluate_corruptions(predict, split, "standard")
    table = np.array(list(result["corruptions"].values()))
    assert table.shape == (15, 5)
    assert result["clean"] == 1.0
    assert result["corruptions"]["contrast"] == [1.0] * 5
    # 60 + 76.5 is the first above the threshold, 0 + 127.5 the second.
    assert result["corruptions"]["brightness"] == [1.0, 1.0, 0.75, 0.75, 0.5]
    assert result["mean"] == pytest.approx(table.mean())
    np.testing.assert_allclose(result["by_severity"], table.mean(0))
    rows = [line.split() for line in format_corruptions(result).splitlines()]
    assert ["brightness", "1.000", "1.000", "0.750", "0.750", "0.500", "0.800"] in rows
    assert list(evaluate_corruptions(predict, split, "extra")["corruptions"]) == [
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "saturate",
    ]
