"""Means and deviations by hand."""

import pytest

from workdir.statistics import by_seed, format_spread, mean_and_std


def test_every_number_gets_its_mean_and_deviation() -> None:
    results = [
        {"accuracy": 0.9, "images": 12, "test": {"ece": 0.1, "bins": [{"low": 0.0}]}, "curve": [1.0, 2.0]},
        {"accuracy": 0.8, "images": 12, "test": {"ece": 0.0, "bins": []}, "curve": [3.0, 2.0]},
        {"accuracy": 0.7, "images": 12, "test": {"ece": 0.2, "bins": []}, "curve": [5.0, 2.0], "device": "x"},
    ]
    spread = mean_and_std(results)
    assert spread["mean"] == {
        "accuracy": pytest.approx(0.8),
        "test": {"ece": pytest.approx(0.1)},
        "curve": [3.0, 2.0],
    }
    assert spread["std"] == {
        "accuracy": pytest.approx(0.1),  # (0.1² + 0² + 0.1²) / 2, its root
        "test": {"ece": pytest.approx(0.1)},
        "curve": [2.0, 0.0],
    }
    assert by_seed((5, 0, 1), results) == {**spread, "seeds": dict(zip("501", results, strict=True))}


def test_one_run_has_no_deviation() -> None:
    spread = mean_and_std([{"accuracy": 0.0}])
    assert spread == {"mean": {"accuracy": 0.0}, "std": {"accuracy": None}}
    assert format_spread(0.5, None) == "0.5000"
    assert format_spread(0.5, 0.01234, 2) == "0.50 ± 0.01"


def test_what_not_all_of_them_measured_is_left_out() -> None:
    assert mean_and_std([{"a": 1.0, "b": 2.0}, {"b": 4.0}])["mean"] == {"b": 3.0}
