"""Fine-tuning against training from scratch: which images each run gets."""

import argparse
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.few_images import Cell, draw_files, format_report, list_cells, write_table
from datasets.listing import Listing, list_images
from resnet.errors import UserError


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    for split, count in (("train", 9), ("test", 4)):
        for name in ("ant", "bee", "cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(b"")
    return list_images(str(tmp_path))


def test_images_of_the_second_half_are_drawn_by_the_seed(listing: Listing) -> None:
    drawn = draw_files(listing, first=2, images=5, seed=0)
    assert Counter((file.split, file.label) for file in drawn) == {
        ("train", 2): 5,
        ("train", 3): 5,
        ("test", 2): 4,
        ("test", 3): 4,
    }
    assert draw_files(listing, 2, 5, seed=0) == drawn
    assert draw_files(listing, 2, 5, seed=1) != drawn
    with pytest.raises(UserError, match="--images=10: class cat has 9 training images"):
        draw_files(listing, 2, 10, seed=0)


def test_a_table_lists_what_was_drawn(listing: Listing, tmp_path: Path) -> None:
    drawn = draw_files(listing, 2, 3, seed=0)
    write_table(tmp_path / "tables" / "drawn.csv", tmp_path, listing, drawn)
    read = list_images(str(tmp_path / "tables" / "drawn.csv"))
    assert read.class_names == ("cat", "dog")
    assert [(Path(file.name).relative_to(tmp_path), file.label + 2) for file in read.files] == [
        (Path(file.name), file.label) for file in drawn
    ]


def test_both_starts_have_the_same_images() -> None:
    cells = list(list_cells(argparse.Namespace(images=[25, 100], seeds=2)))
    assert cells[:2] == [Cell("scratch", 25, 0), Cell("pretrained", 25, 0)]
    assert len({cell.name for cell in cells}) == len(cells) == 8


def test_the_table_shows_both_starts_side_by_side() -> None:
    runs = [
        {"start": start, "images": 25, "seed": seed, "accuracy": accuracy + seed / 10, "seconds": 10.0}
        for start, accuracy in (("scratch", 0.4), ("pretrained", 0.6))
        for seed in range(2)
    ]
    row = format_report({"runs": runs}).splitlines()[-1].split()
    assert row[0] == "25"
    assert (row[1], row[7]) == ("0.4500", "0.6500")
