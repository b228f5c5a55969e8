"""Items come in order, from threads and from processes."""

import time

import numpy as np
import pytest

from datasets.read_ahead import read_ahead


class Squares:
    """Twenty items, of which the even ones take longer."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, item: int) -> np.ndarray:
        time.sleep(0.01 * (item % 2 == 0))
        return np.full(3, item**2)


@pytest.mark.parametrize("processes", [0, 2])
def test_items_come_in_order(processes: int) -> None:
    items = read_ahead(Squares(), processes)
    np.testing.assert_array_equal([*items], [[i**2] * 3 for i in range(20)])
    items.close()


def test_what_was_begun_can_be_ended() -> None:
    items = read_ahead(Squares())
    np.testing.assert_array_equal(next(items), [0, 0, 0])
    items.close()
