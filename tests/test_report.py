"""Pictures of a run: what they show is what training sees, and where."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import datasets
import settings
from configs import default
from datasets.audit import audit
from datasets.types import Split
from errors import UserError
from evaluate import TrainedRun
from files import write_json
from input_pipeline import epoch_permutation, first_training_batch, make_mesh, put_on_devices
from optimizer import learning_rate_schedule, make_optimizer
from report import TILE, draw_grid, draw_pairs, format_audit, page, write_picture
from resnet.network import Weights
from train import init_state, make_run_steps


class SpyNetwork:
    """Stands in for a `Network`, and keeps the images that it is trained on."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def init(self, seed: int):
        return Weights({"head": {"kernel": np.ones((3, 6), np.float32)}}, {})

    def apply(self, weights, images, train: bool):
        jax.debug.callback(lambda pixels: self.seen.append(np.asarray(pixels)), images)
        return images.mean(axis=(1, 2)) @ weights.params["head"]["kernel"], {}, {}


def test_first_training_batch_is_what_the_first_step_sees(shared_signs_dir: Path) -> None:
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "batch_size": 16,
            "seed": 5,
            "data.dir": str(shared_signs_dir),
            # Resampling takes long to compile; the other draws come from the same key.
            "augment.rotation": 0.0,
            "augment.scale": 0.0,
            "augment.translation": 0.0,
            "augment.cutout": 0.2,
        }
    )
    train = datasets.load(config.data).train
    images, labels = first_training_batch(train, config)

    network, mesh = SpyNetwork(), make_mesh(config.batch_size)
    schedule = learning_rate_schedule(config, len(train.labels) // 16)
    optimizer = make_optimizer(config, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config, mesh)
    permutation = epoch_permutation(np.uint32(config.seed), 0, len(train.labels))
    state = init_state(network, optimizer, config)
    jax.block_until_ready(
        run_steps(state, put_on_devices(train, mesh), permutation, np.uint32(config.seed), 1)
    )
    jax.effects_barrier()

    assert len(network.seen) == 1
    np.testing.assert_allclose(images, network.seen[0], atol=0.51)  # rounded to whole levels
    np.testing.assert_array_equal(labels, train.labels[np.asarray(permutation[:16])])


def test_corruptions_of_other_seeds_and_predictions_are_not_shown(tmp_path: Path) -> None:
    config = default.get_config()
    config.seeds = (0, 1)
    # Its network is not asked.
    run = TrainedRun(config, ("0", "1"), {}, None, None, step=9, kind="ema", batch_size=32, predict=None)
    mean = {"mean": 0.5, "clean": 0.9, "by_severity": [0.5] * 5, "corruptions": {"fog": [0.5] * 5}}
    identity = {"step": 9, "weights": "ema", "prediction": settings.prediction(config)}
    measured = {**identity, "mean": mean, "seeds": {"0": mean, "1": mean}}
    write_json(tmp_path / "eval_test_standard_corruptions.json", measured)
    (section,) = page._corruptions(run, tmp_path, "test")
    assert "0.5000 in the mean, 0.9000 on clean images" in section.text
    config.test_time_flip = True
    assert page._corruptions(run, tmp_path, "test") == []
    config.update(test_time_flip=False, seeds=(0, 1, 2))
    assert page._corruptions(run, tmp_path, "test") == []


def test_grid_shows_every_image_enlarged_to_whole_pixels() -> None:
    images = np.zeros((9, 50, 50, 3), np.uint8)
    images[8, :, :, 0] = 255
    grid = draw_grid(images, list("abcdefghi"))
    pixels = np.asarray(grid)
    red = (pixels == [255, 0, 0]).all(-1)
    zoomed = TILE // 50 * 50
    rows, columns = np.nonzero(red)
    assert red.sum() == zoomed**2
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == zoomed
    assert columns.min() < zoomed  # the ninth starts the second row
    assert rows.min() > zoomed


def test_captions_are_under_the_images() -> None:
    images = np.full((2, 64, 64, 3), 255, np.uint8)
    dark = (np.asarray(draw_grid(images, ["7", ""])) < 128).any(-1)
    rows, columns = np.nonzero(dark)
    assert rows.min() > 2 * 64
    assert abs(columns.mean() - (6 + 64)) < 8


def test_second_line_of_a_caption_is_below_the_first() -> None:
    images = np.full((2, 64, 64, 3), 255, np.uint8)
    one, two = (draw_grid(images, ["7", caption]) for caption in ("7", "7\n7"))
    assert two.height > one.height
    dark = (np.asarray(two) < 128).any(-1)[:, two.width // 2 :]
    assert dark[one.height :].any()


def test_audit_is_shown_conflicts_first() -> None:
    colours = np.random.default_rng(0).integers(0, 250, (4, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (4, 64, 64, 3)).copy()
    splits = {
        "train": Split(images, np.int32([0, 1, 2, 0])),
        "test": Split(np.stack([images[3], images[1] + 4]), np.int32([0, 2])),
    }
    found = audit(splits, ("zero", "one", "two"))
    assert [pair["indices"] for pair in found["pairs"]] == [[3, 0], [1, 1]]
    sheet = np.asarray(draw_pairs(splits, found["pairs"]))
    middle = sheet[6 + 64, 6 + 64 :: 128 + 6][:4]
    np.testing.assert_array_equal(
        middle, [images[i, 0, 0] + [a] for i, a in ((1, 0), (1, 4), (3, 0), (3, 0))]
    )
    assert draw_pairs(splits, []) is None
    rows = [line.split() for line in format_audit(found).splitlines()]
    assert ["one", "1", "0"] in rows
    assert ["train", "and", "test", "6", "2", "2", "1"] in rows
    assert ["test", "all", "2", "0.5000"] in rows
    assert ["test", "without", "a", "near", "duplicate", "0", "-"] in rows


def test_files_are_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"accuracy": 1.0})
    write_picture(Image.new("RGB", (4, 5)), tmp_path / "new" / "b.png")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "b.png"]
    assert Image.open(tmp_path / "new" / "b.png").size == (4, 5)
    with pytest.raises(UserError, match=r"a\.json/c\.json: cannot be written"):
        write_json(tmp_path / "new" / "a.json" / "c.json", {})
