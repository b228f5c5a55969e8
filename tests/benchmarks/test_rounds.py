"""Rounds alternate, ratios compare neighbours within a round, failures are reported."""

from collections.abc import Callable

import pytest

from benchmarks.rounds import (
    Failed,
    Spread,
    alternate,
    format_table,
    lead,
    ratios,
    spread,
    summarize,
)


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or float(len(order))

    results, failed = alternate({name: contestant(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abcabcabc"
    assert results == {"a": [1, 4, 7], "b": [2, 5, 8], "c": [3, 6, 9]}
    assert failed == {}


def test_a_contestant_that_fails_leaves_and_the_others_continue() -> None:
    calls = []

    def breaks_in_second_round() -> float:
        calls.append(None)
        if len(calls) == 2:
            raise Failed("out of memory")
        return 1.0

    results, failed = alternate({"good": lambda: 2.0, "bad": breaks_in_second_round}, rounds=4)
    assert results == {"good": [2.0] * 4}
    assert failed == {"bad": "out of memory"}
    assert len(calls) == 2


def test_a_program_error_is_not_swallowed() -> None:
    def broken() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        alternate({"broken": broken}, rounds=1)


def test_spread_of_odd_and_even_counts() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0)


def test_a_slow_phase_of_the_machine_cancels_in_the_ratio() -> None:
    ours, peer = [100.0, 50.0, 30.0], [50.0, 25.0, 10.0]
    assert ratios(ours, peer) == [2, 2, 3]
    row = summarize({"ours": ours, "peer": peer}, floor_rate=200.0)[1]
    # The median of the ratios, not the ratio of the medians.
    assert row["ratio"] == {"median": 2, "low": 2, "high": 3, "rounds": [2, 2, 3]}
    assert row["images_per_second"] == {"median": 25, "low": 10, "high": 50, "rounds": peer}
    assert row["share_of_floor"] == 0.125


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


def test_the_lead_is_that_of_our_fastest_over_the_fastest_peer_by_median() -> None:
    rates = {"ours": [9.0] * 3, "ours_int8": [10.0, 10.0, 15.0]}
    peers = {"steady": [5.0] * 3, "spiky": [4.0, 4.0, 99.0]}
    assert lead(summarize(rates | peers, None)) == ("ours_int8", "steady", Spread(2.0, 2.0, 3.0))
    assert lead(summarize(rates, None)) is None


def test_the_table_has_every_row_and_those_left_out() -> None:
    rows = summarize({"ours": [60.0, 62.0], "peer": [30.0, 31.0]}, floor_rate=100.0)
    rows[0] |= {"peak_memory": 1_234_000_000, "compiling": {"peak_memory": 2_345_000_000}}
    table = format_table(rows, {"keras_tf": "not installed: tensorflow"})
    ours, peer, left_out = table.splitlines()[2:]
    assert ours.split() == ["ours", "61.0", "60.0-62.0", "1.00", "1.00-1.00", "0.61", "1234", "2345", "-"]
    assert peer.split() == ["peer", "30.5", "30.0-31.0", "2.00", "2.00-2.00", "0.30", "-", "-", "-"]
    assert left_out == "keras_tf: not installed: tensorflow"
