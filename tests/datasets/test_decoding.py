"""Files become rows of an array: the same pixels as for a prediction, in order, with what is wrong."""

import io

import numpy as np
import pytest

from datasets.decoding import Square, content_digest, decode
from datasets.digests import pixel_digest
from resnet.errors import UserError
from resnet.images import fit_square, read_image
from tests.datasets.listings import BROKEN, MemorySource, noisy, png


def empty(count: int, size: int) -> np.ndarray:
    return np.zeros((count, size, size, 3), np.uint8)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pixels_are_those_of_a_prediction_and_keep_their_order(fit):
    files = {f"{i}.png": png(noisy(i, 10 + i % 7, 10 + i % 5)) for i in range(200)}
    images = empty(200, 8)
    decoding = decode(list(files), MemorySource(files), Square(8, 0.8, fit), images)
    for image, digest, content in zip(images, decoding.digests, files.values(), strict=True):
        np.testing.assert_array_equal(image, fit_square(read_image(io.BytesIO(content)), 8, 0.8, fit))
        assert digest == pixel_digest(image)
    assert decoding.unreadable == {}


def test_a_name_that_occurs_twice_is_read_once():
    source = MemorySource({"a.png": png(noisy(0)), "b.png": png(noisy(1))})
    images = empty(3, 12)
    decode(["a.png", "b.png", "a.png"], source, Square(12, 1.0, "crop"), images)
    np.testing.assert_array_equal(images, [noisy(0), noisy(1), noisy(0)])
    assert source.reads == {"a.png": 1, "b.png": 1}


def test_unreadable_files_are_told_by_name_and_place():
    source = MemorySource({"a.png": BROKEN, "b.png": png(noisy(1)), "c.png": None})
    decoding = decode(["a.png", "b.png", "c.png"], source, Square(12, 1.0, "crop"), empty(3, 12))
    assert list(decoding.unreadable) == [0, 2]
    assert decoding.unreadable[0].startswith("a.png: is not an image")
    assert decoding.unreadable[2] == "c.png: cannot be read"
    assert decoding.content is None


def test_the_content_digest_depends_on_every_name_and_content():
    files = {"a.png": png(noisy(0)), "b.png": BROKEN}
    square = Square(12, 1.0, "crop")
    digest = content_digest(list(files), MemorySource(files))
    assert digest == decode(list(files), MemorySource(files), square, empty(2, 12)).content
    for other in ({**files, "b.png": b"Others."}, {"a.png": files["a.png"], "c.png": BROKEN}):
        assert content_digest(list(other), MemorySource(other)) != digest
    assert content_digest(["b.png", "a.png"], MemorySource(files)) != digest
    assert content_digest(["a.png"], MemorySource({"a.png": None})) is None


def test_an_error_of_the_program_is_not_swallowed(monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("datasets.decoding.read_square", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        decode(["a.png"], MemorySource({"a.png": BROKEN}), Square(12, 1.0, "crop"), empty(1, 12))


def test_a_log_file_gets_no_progress_bar(capsys):
    decode(["a.png"], MemorySource({"a.png": png(noisy(0))}), Square(12, 1.0, "crop"), empty(1, 12))
    assert capsys.readouterr().err == ""


def test_no_more_than_a_few_files_are_in_memory(monkeypatch):
    """The source is not asked for many more files than have been decoded."""
    monkeypatch.setattr("datasets.decoding.BATCH_FILES", 1)
    monkeypatch.setattr("datasets.threads.MAX_THREADS", 2)
    decoded, ahead = [], []

    def read_square(file: io.BytesIO, *square: object) -> np.ndarray:
        decoded.append(file)
        raise UserError("unreadable")

    class CountingSource(MemorySource):
        def contents(self, names):
            for i, item in enumerate(super().contents(names)):
                ahead.append(i - len(decoded))
                yield item

    monkeypatch.setattr("datasets.decoding.read_square", read_square)
    files = {f"{i}.png": BROKEN for i in range(300)}
    decode(list(files), CountingSource(files), Square(12, 1.0, "crop"), empty(300, 12))
    assert max(ahead) <= 6
