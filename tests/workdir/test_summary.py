"""The summaries of seeds, and their mean and deviation."""

import json
from pathlib import Path

import pytest

from workdir.summary import SUMMARY_FILE, make_summaries, read_summary, summarize_seeds


def test_every_seed_gets_its_scores_and_what_all_have_in_common() -> None:
    raw = {"train": [{"loss": 1.0}, {"loss": 2.0}], "test": [{"loss": 3.0}, {"loss": 4.0}]}
    ema = {"train": [{"loss": 5.0}, {"loss": 6.0}], "test": [{"loss": 7.0}, {"loss": 8.0}]}
    about = {"epochs": 2, "steps": 6, "prediction": "as it is"}
    summaries = make_summaries({"raw": raw, "ema": ema}, parameters=9, device="1 x cpu", about=about)
    for i, summary in enumerate(summaries):
        assert summary["train"] == raw["train"][i]
        assert summary["test"] == raw["test"][i]
        assert summary["ema"] == {"train": ema["train"][i], "test": ema["test"][i]}
        assert summary.items() >= {"parameters": 9, "device": "1 x cpu", **about}.items()
        assert {"python", "jax", "flax"} <= summary["versions"].keys()
    whole = summarize_seeds((7, 2), summaries)
    assert whole["mean"]["ema"]["test"]["loss"] == 7.5
    assert whole["std"]["train"]["loss"] == pytest.approx(0.5**0.5)
    assert whole["seeds"] == {"7": summaries[0], "2": summaries[1]}
    assert whole["steps"] == 6


def test_without_an_average_there_are_raw_scores_alone() -> None:
    (summary,) = make_summaries({"raw": {"test": [{"loss": 1.0}]}}, parameters=1, device="cpu", about={})
    assert "ema" not in summary


def test_there_is_no_summary_before_the_end(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == {}
    (tmp_path / SUMMARY_FILE).write_text(json.dumps({"steps": 6}))
    assert read_summary(tmp_path) == {"steps": 6}
