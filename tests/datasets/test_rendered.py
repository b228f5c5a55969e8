"""Rendered signs: the same picture for the same numbers, and a hand that shows its digit."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import datasets
from configs import default
from datasets import photograph, render_cache, rendered
from datasets.hand import ARM, sample_hand
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


def boxes(strength: float) -> np.ndarray:
    """`[120, 2, 2]`: where hands lie without their arms, low and high, x and y, 0 to 1 across the picture."""
    found = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        hand = sample_hand(seed % 6, strength, rng)
        view = photograph.sample_view(seed % 6, hand, strength, rng)
        picture = photograph.take_aim(hand, view, 128, strength, rng)
        joints = np.concatenate([points[hand.limb != ARM] for points in (picture.start, picture.end)])
        flesh = 0.8 * picture.scale  # of fingers, which reach furthest
        found.append([joints.min(0) - flesh, joints.max(0) + flesh])
    return np.array(found) / 128


def test_at_strength_0_hands_are_whole_and_large():
    low, high = boxes(0.0).transpose(1, 0, 2)
    assert low.min() > -0.02
    assert high.max() < 1.02
    span = (high - low).max(1)
    assert 0.5 < span.min() < 0.62
    assert 0.8 < span.max() < 0.95
    # Anywhere in the picture.
    assert np.abs(low + high - 1).max() > 0.3


def test_strength_makes_some_hands_small_and_crops_some():
    low, high = boxes(1.0).transpose(1, 0, 2)
    span, cropped = (high - low).max(1), ((low < -0.1) | (high > 1.1)).any(1)
    assert 0.02 < (span < 0.45).mean() < 0.4
    assert 0.05 < cropped.mean() < 0.4


def test_easy_pictures_stay_frequent_however_varied_all_are():
    rng = np.random.default_rng(0)
    hardest = np.array([max(photograph.sample_strength(0.6, rng)) for _ in range(600)])
    np.testing.assert_allclose(np.quantile(hardest, [0, 1 / 3, 2 / 3, 1]), [0, 0.2, 0.4, 0.6], atol=0.04)


def test_no_picture_is_hard_in_every_way():
    rng = np.random.default_rng(0)
    assert max(sum(photograph.sample_strength(1.0, rng)) for _ in range(600)) <= 2.5


def test_the_config_says_how_varied_images_are():
    config = default.get_config().data
    config.update(name="rendered", train_size=2, test_size=1, variety=0.4)
    images = datasets.load(config).train.images
    np.testing.assert_array_equal(images[1], rendered.render(1, 1, seed=0, variety=0.4))


def test_every_variety_is_drawn_alike_by_worker_processes(monkeypatch):
    monkeypatch.setattr(rendered, "IMAGES_WORTH_A_PROCESS", 3)
    split = rendered.load(seed=2, train_size=7, test_size=1, variety=0.3, workers=2).train
    for i in range(7):
        np.testing.assert_array_equal(split.images[i], rendered.render(i % 6, i, seed=2, variety=0.3))
    assert not np.array_equal(split.images[6], rendered.render(0, 6, seed=2, variety=0.8))


def test_images_of_another_variety_are_not_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(render_cache, "LEAST_WORTH_KEEPING", 1)
    for variety in (0.0, 1.0, 0.0):
        images = rendered.load(train_size=6, test_size=1, variety=variety).train.images
        np.testing.assert_array_equal(images[5], rendered.render(5, 5, seed=0, variety=variety))


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
    hand = sample_hand(label, 0.5, np.random.default_rng(seed))
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
    hand = sample_hand(4, 0.5, np.random.default_rng(0))
    yaws = iter([90, -90, 0])
    monkeypatch.setattr(photograph, "_sample_yaw", lambda label, strength, rng: next(yaws))
    view = photograph.sample_view(4, hand, 0.5, np.random.default_rng(0))
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
        ({"variety": 1.5}, "data.variety: found 1.5; expected a number from 0 to 1; set data.variety"),
        ({"variety": -0.1}, "data.variety: found -0.1"),
        ({"variety": float("nan")}, "data.variety: found nan"),
        ({"variety": "high"}, "data.variety: found 'high'"),
        ({"variety": True}, "data.variety: found True"),
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


def test_the_module_takes_a_variety(tmp_path):
    command = [sys.executable, "-m", "datasets.rendered", "--label=3", "--variety=0.2"]
    subprocess.run([*command, str(tmp_path / "hand.png")], check=True)
    with Image.open(tmp_path / "hand.png") as image:
        expected = rendered.render(3, 0, seed=0, stream=rendered.TEST, variety=0.2)
        np.testing.assert_array_equal(np.asarray(image), expected)
    refused = subprocess.run(
        [sys.executable, "-m", "datasets.rendered", "--variety=2", "x.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert (
        refused.stderr
        == "error: variety: found 2.0; expected a number from 0 to 1; set variety to such a number\n"
    )


def test_the_module_writes_one_image(tmp_path):
    command = [sys.executable, "-m", "datasets.rendered", "--label=2", "--index=1"]
    subprocess.run([*command, str(tmp_path / "hand.png")], check=True)
    with Image.open(tmp_path / "hand.png") as image:
        expected = rendered.render(2, 1, seed=0, stream=rendered.TEST)
        np.testing.assert_array_equal(np.asarray(image), expected)
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "hand.png"
    refused = subprocess.run([*command, str(nowhere)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {nowhere}: cannot be written")
    refused = subprocess.run(
        [*command[:-2], "--label=9", "x.png"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: label: found 9; expected a whole number from 0 to 5")
