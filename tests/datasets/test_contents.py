"""The table of a data set's images, and what has changed since an earlier one."""

import numpy as np

from datasets.contents import image_table
from datasets.digests import pixel_digest, pixel_digests
from datasets.types import Dataset, Split
from tests.datasets.noise import noise
from workdir.images_file import describe_changes

FILES = ("cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/4.jpg", "dog/5.jpg", "dog/6.jpg")


def split(files: tuple[str, ...], changed: tuple[str, ...] = ()) -> Split:
    images = np.stack([noise(6)[FILES.index(file)] + (file in changed) for file in files])
    return Split(images, np.array(["dog" in file for file in files], np.int32), files=np.array(files))


def table(train: tuple[str, ...], test: tuple[str, ...] = FILES[:1], changed: tuple[str, ...] = ()) -> str:
    return image_table(Dataset(split(train, changed), split(test), ("cat", "dog")))


def test_every_image_is_a_line():
    lines = table(FILES[1:4]).splitlines()
    assert lines[0] == "split\tclass\tfile\tdigest"
    assert lines[2] == f"train\tdog\tdog/3.jpg\t{pixel_digest(noise(6)[2])[:12]}"
    assert [line.split("\t")[0] for line in lines[1:]] == ["train"] * 3 + ["test"]


def test_the_order_of_images_does_not_matter():
    assert table(FILES[1:]) == table(FILES[:0:-1])
    assert describe_changes(table(FILES[1:]), table(FILES[1:])) == ""


def test_changes_are_one_line():
    assert describe_changes(table(FILES[1:5]), table(FILES[2:], changed=FILES[2:4])) == (
        "1 image added (dog/6.jpg), 1 removed (cat/2.jpg), 2 changed (dog/3.jpg, dog/4.jpg)"
    )
    assert describe_changes(table(FILES[1:2]), table(FILES[1:])) == (
        "4 images added (dog/3.jpg, dog/4.jpg, dog/5.jpg, ...)"
    )


def test_an_image_of_another_split_has_moved():
    before, after = table(FILES[1:], FILES[:1]), table(FILES[2:], FILES[:2])
    assert describe_changes(before, after) == "1 image moved to another split or class (cat/2.jpg)"


def test_an_image_that_another_split_stores_at_another_size_has_not_changed():
    before, after = table(FILES[1:], FILES[:1]), table(FILES[2:], FILES[:2], changed=FILES[1:2])
    assert describe_changes(before, after) == "1 image moved to another split or class (cat/2.jpg)"
    after = table(FILES[2:5], FILES[:2], changed=FILES[1:2])
    assert describe_changes(before, after) == "1 image removed (dog/6.jpg)"


def test_a_file_that_is_listed_twice_counts_twice():
    twice = (*FILES[1:], FILES[1])
    assert describe_changes(table(FILES[1:]), table(twice)) == "1 image added (cat/2.jpg)"


def test_images_without_files_have_numbers():
    dataset = Dataset(split(FILES)._replace(files=None), None, ("cat", "dog"))
    assert "train\tcat\ttrain 1\t" in image_table(dataset)


def test_names_do_not_break_lines():
    files = np.array(["a\tb\nc.jpg", "\udcff.jpg"])
    text = image_table(Dataset(split(FILES[:2])._replace(files=files), None, ("cat", "dog")))
    assert len(text.encode().splitlines()) == 3
    assert all(line.count("\t") == 3 for line in text.splitlines())


def test_digests_of_many_images_are_those_of_each():
    images = noise(1000)
    assert pixel_digests(images) == [pixel_digest(image) for image in images]
    assert pixel_digests(images[::-1]) == pixel_digests(images)[::-1]
