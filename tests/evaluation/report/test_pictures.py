"""Pictures of images: every pixel is shown, captions are where they belong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.audit import audit
from datasets.types import Split
from evaluation.report.pictures import TILE, draw_grid, draw_pairs, write_picture
from modes.audit import format_audit
from resnet.errors import UserError
from resnet.files import write_json


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
    result = audit(splits, ("zero", "one", "two"))
    assert [pair["indices"] for pair in result["pairs"]] == [[3, 0], [1, 1]]
    sheet = np.asarray(draw_pairs(splits, result["pairs"]))
    middle = sheet[6 + 64, 6 + 64 :: 128 + 6][:4]
    np.testing.assert_array_equal(
        middle, [images[i, 0, 0] + [a] for i, a in ((1, 0), (1, 4), (3, 0), (3, 0))]
    )
    assert draw_pairs(splits, []) is None
    rows = [line.split() for line in format_audit(result).splitlines()]
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
