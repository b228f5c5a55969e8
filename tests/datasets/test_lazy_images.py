"""Lazy images behave as the array that they stand for, and load only what is asked for."""

from pathlib import Path

import numpy as np
import pytest

from datasets.digests import pixel_digests
from datasets.lazy_images import LazyImages, concatenate, select
from datasets.pixel_file import PixelFile
from datasets.types import Split
from resnet.errors import UserError
from tests.datasets.noise import noise

ARRAY = noise(7, seed=3)


@pytest.fixture
def loaded() -> list[int]:
    """The places of the images that were loaded, in order."""
    return []


@pytest.fixture
def images(loaded: list[int]) -> LazyImages:
    def load(place: int) -> np.ndarray:
        loaded.append(place)
        return ARRAY[place]

    return LazyImages(load, np.arange(7), ARRAY.shape[1])


@pytest.mark.parametrize(
    "index",
    [3, np.int64(6), slice(2, 5), slice(None), np.array([5, 0, 5]), np.arange(7) > 4, np.array([], int)],
)
def test_indexing_loads_what_an_array_would_return(
    images: LazyImages, loaded: list[int], index: object
) -> None:
    assert (len(images), images.shape, images.dtype, images.ndim) == (7, ARRAY.shape, ARRAY.dtype, 4)
    assert not loaded
    np.testing.assert_array_equal(images[index], ARRAY[index])
    assert loaded == np.atleast_1d(np.arange(7)[index]).tolist()


def test_parts_and_changes_load_nothing_until_they_are_indexed(images: LazyImages, loaded: list[int]) -> None:
    part = select(select(images, np.array([6, 2, 4])), slice(1, 3))
    mirrored = part.map(lambda image: image[:, ::-1], ARRAY.shape[1])
    longer = concatenate(mirrored, ARRAY[:1])
    assert not loaded
    np.testing.assert_array_equal(longer, np.concatenate([ARRAY[[2, 4], :, ::-1], ARRAY[:1]]))
    assert loaded == [2, 4]


def test_a_split_of_lazy_images_has_the_digest_of_its_array(images: LazyImages, loaded: list[int]) -> None:
    labels = np.arange(7, dtype=np.int32)
    assert pixel_digests(images) == pixel_digests(ARRAY)
    digests = np.array(pixel_digests(ARRAY))
    arrays, lazies = (Split(pixels, labels, digests=digests) for pixels in (ARRAY, images))
    loaded.clear()
    assert lazies.digest() == arrays.digest()
    rows = np.array([4, 1])
    assert lazies.subset(rows).digest() == arrays.subset(rows).digest() != arrays.digest()
    assert not loaded


@pytest.mark.parametrize("are_known", [False, True])
def test_the_digest_depends_on_pixels_order_and_labels(are_known: bool) -> None:
    other = ARRAY.copy()
    other[3, 0, 0, 0] ^= 1
    order, labels = np.arange(7)[::-1], np.arange(7, dtype=np.int32)
    splits = [Split(ARRAY, labels), Split(other, labels), Split(ARRAY, labels[::-1])]
    splits = [
        split._replace(digests=np.array(pixel_digests(split.images))) if are_known else split
        for split in splits
    ]
    assert len({split.digest() for split in [*splits, splits[0].subset(order)]}) == 4


@pytest.mark.parametrize("lazy", [False, True])
def test_pixels_in_a_file_are_those_that_were_written(tmp_path: Path, lazy: bool) -> None:
    with (tmp_path / "pixels").open("w+b") as file:
        pixels = PixelFile(file, 7, ARRAY.shape[1])
        for row in (3, 0, 1, 2):
            pixels[row] = ARRAY[row]
    images = pixels.images(4, lazy=lazy)
    assert isinstance(images, LazyImages) == lazy
    np.testing.assert_array_equal(images, ARRAY[:4])
    assert len(pixels.images(0, lazy=lazy)) == 0
    with pytest.raises(UserError, match=r"pixels: was cut off while it was in use; start again$"):
        pixels[4]
