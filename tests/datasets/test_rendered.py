"""Rendered signs: the same picture for the same numbers, and a hand that shows its digit."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datasets import photograph, rendered
from datasets.hand import sample_hand
from datasets.round_cones import FAR, draw
from errors import UserError


def test_load_returns_what_was_asked_for_and_every_class_alike():
    data = rendered.load(seed=1, train_size=12, test_size=6, image_size=48)
    assert data.train.images.shape == (12, 48, 48, 3)
    assert data.test.images.shape == (6, 48, 48, 3)
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        counts = np.bincount(split.labels, minlength=6)
        assert counts.min() == counts.max() == len(split.labels) // 6
    assert data.class_names == ("0", "1", "2", "3", "4", "5")


def test_an_image_does_not_depend_on_how_many_are_asked_for():
    few = rendered.load(seed=3, train_size=4, test_size=1)
    many = rendered.load(seed=3, train_size=9, test_size=5)
    np.testing.assert_array_equal(few.train.images, many.train.images[:4])
    np.testing.assert_array_equal(few.test.images, many.test.images[:1])
    np.testing.assert_array_equal(many.train.images[8], rendered.render(8 % 6, 8, seed=3))


def test_a_matte_says_where_the_hand_is():
    data = rendered.load(seed=5, train_size=60, test_size=6)
    for split in (data.train, data.test):
        assert split.mattes.shape == split.images.shape[:3]
        assert split.mattes.dtype == np.uint8
    mattes = data.train.mattes / 255
    assert (mattes.max((1, 2)) > 0.9).all()
    assert 0.15 < mattes.mean() < 0.6
    # A picture changes most where the hand ends, and there the matte changes too.
    across = np.abs(np.diff(data.train.images.astype(float), axis=2)).mean(-1)
    edge = np.abs(np.diff(mattes, axis=2))
    assert across[edge > 0.3].mean() > 3 * across[edge < 0.01].mean()


def test_a_matte_belongs_to_its_image(monkeypatch):
    monkeypatch.setattr(rendered, "IMAGES_WORTH_A_PROCESS", 5)
    split = rendered.load(seed=2, train_size=13, test_size=1, workers=2).train
    for i in (0, 12):
        image, matte = rendered.render_with_matte(i % 6, i, seed=2)
        np.testing.assert_array_equal(split.images[i], image)
        np.testing.assert_array_equal(split.mattes[i], matte)


def test_worker_processes_draw_the_same_images(monkeypatch):
    monkeypatch.setattr(rendered, "IMAGES_WORTH_A_PROCESS", 5)
    alone = rendered.load(seed=2, train_size=13, test_size=1, workers=1)
    shared = rendered.load(seed=2, train_size=13, test_size=1, workers=2)
    np.testing.assert_array_equal(alone.train.images, shared.train.images)
    assert shared.train.images.flags.writeable


def test_a_failing_worker_process_is_an_error(monkeypatch):
    monkeypatch.setattr(rendered, "IMAGES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="exit code 1"):
        rendered.load(train_size=4, test_size=1, workers=2)


def test_every_image_is_another_hand():
    data = [rendered.load(seed, train_size=8, test_size=8) for seed in (0, 1)]
    images = np.concatenate([split for d in data for split in (d.train.images, d.test.images)])
    pixels = images.reshape(len(images), -1).astype(float)
    distance = np.abs(pixels[:, None] - pixels).mean(-1)
    assert distance[~np.eye(len(images), dtype=bool)].min() > 4  # grey levels


def test_the_label_alone_changes_the_picture():
    signs = [rendered.render(label, 7, seed=0) for label in range(6)]
    assert len({sign.tobytes() for sign in signs}) == 6


def test_a_picture_shows_the_same_hand_at_any_size():
    for index in range(12):
        small, large = (rendered.render(5, index, 0, image_size=size).astype(float) for size in (64, 128))
        reduced = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(small - reduced).mean() < 9  # grey levels; noise differs


# What a stranger would look for, counted on the silhouette of random hands.


def silhouette(label: int, seed: int, yaw: float) -> np.ndarray:
    """`[256, 256]` bool: a random hand, 30 cm wide view, palm to the viewer turned by yaw degrees."""
    hand = sample_hand(label, np.random.default_rng(seed))
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    scale = 256 / 30
    start, end = ((points @ turn.T * [1, -1, 1] + [15, 22, 0]) * scale for points in (hand.start, hand.end))
    return draw(start, end, hand.radius * scale, hand.blend * scale, 256).depth > FAR


def count_digits(mask: np.ndarray) -> int:
    """Runs of hand along arcs about the palm's centre, the arm's side left out; the most frequent."""
    counts = []
    for radius in np.linspace(6.3, 8.2, 9):
        angle = np.radians(np.linspace(-35, 215, 720))
        x, y = 15 + radius * np.cos(angle), 22 - (5.5 + radius * np.sin(angle))
        on = mask[(y * 256 / 30).astype(int), (x * 256 / 30).astype(int)]
        counts.append(int((np.diff(on.astype(int)) == 1).sum()))
    return int(np.bincount(counts).argmax())


def has_hole(mask: np.ndarray) -> bool:
    """Whether wall shows that is cut off from the picture's border."""
    wall = ~np.pad(mask, 1)
    outside = np.zeros_like(wall)
    outside[0] = True
    while True:
        grown = outside.copy()
        for axis in (0, 1):
            for step in (1, -1):
                grown |= np.roll(outside, step, axis)
        grown &= wall
        if (grown == outside).all():
            return bool((wall & ~outside).sum() > 20)
        outside = grown


@pytest.mark.parametrize("label", [1, 2, 3, 4, 5])
def test_a_sign_stretches_as_many_digits_as_it_says(label):
    counts = [count_digits(silhouette(label, seed, yaw=0)) for seed in range(24)]
    # Not every one: some people keep their fingers together.
    assert np.mean([count == label for count in counts]) > 0.55


def test_a_zero_is_closed_to_a_ring():
    rings = [has_hole(silhouette(0, seed, yaw=-80)) for seed in range(12)]
    assert np.mean(rings) >= 0.8


def test_a_viewer_from_whom_fingers_hide_each_other_moves_on(monkeypatch):
    hand = sample_hand(4, np.random.default_rng(0))
    yaws = iter([90, -90, 0])
    monkeypatch.setattr(photograph, "_sample_yaw", lambda label, rng: next(yaws))
    view = photograph.sample_view(4, hand, np.random.default_rng(0))
    assert view[2, 2] > 0.8  # the palm's normal points at the viewer


@pytest.mark.parametrize("label", [1, 3])
def test_a_zero_alone_is_a_ring(label):
    assert not any(has_hole(silhouette(label, seed, yaw=0)) for seed in range(4))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"train_size": -1}, "data.train_size: found -1; expected a whole number, 1 or more"),
        ({"test_size": 0}, "data.test_size: found 0"),
        ({"train_size": 2.5}, "data.train_size: found 2.5"),
        ({"seed": -3}, "data.seed: found -3"),
        ({"seed": "x"}, "data.seed: found 'x'"),
        ({"image_size": 4}, "data.image_size: found 4; expected a whole number from 16 to 512"),
    ],
)
def test_bad_numbers_are_told_in_one_line(arguments, said):
    with pytest.raises(UserError) as caught:
        rendered.load(**arguments)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [-1, 6, 2.0, "3", True])
def test_a_label_outside_the_classes_is_refused(label):
    with pytest.raises(UserError, match="label: found"):
        rendered.render(label, 0, 0)


def test_the_module_writes_a_sheet(tmp_path):
    out = tmp_path / "sheet.png"
    subprocess.run([sys.executable, "-m", "datasets.rendered", str(out)], check=True)
    with Image.open(out) as sheet:
        assert sheet.width > sheet.height > 6 * 64


def test_the_module_writes_one_image(tmp_path):
    command = [sys.executable, "-m", "datasets.rendered", "--label=2", "--index=1"]
    subprocess.run([*command, str(tmp_path / "hand.png")], check=True)
    with Image.open(tmp_path / "hand.png") as image:
        expected = rendered.render(2, 1, seed=0, stream=rendered.TEST)
        np.testing.assert_array_equal(np.asarray(image), expected)
    refused = subprocess.run(
        [*command[:-2], "--label=9", "x.png"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("label: found 9; expected a whole number from 0 to 5")
