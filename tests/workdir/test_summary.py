"""The summaries of seeds, and their mean and deviation."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.damages import put_in_place
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


def test_a_score_that_was_edited_to_a_whole_number_is_one(tmp_path: Path) -> None:
    edited = a_summary() | {"train": {"loss": 0, "accuracy": 1}}
    (tmp_path / SUMMARY_FILE).write_text(json.dumps(edited))
    assert summarize_seeds((7,), [read_summary(tmp_path)])["mean"]["train"] == {"loss": 0.0, "accuracy": 1.0}


def test_without_an_average_there_are_raw_scores_alone() -> None:
    (summary,) = make_summaries({"raw": {"test": [{"loss": 1.0}]}}, parameters=1, device="cpu", about={})
    assert "ema" not in summary


def a_summary() -> dict[str, Any]:
    scores = {"train": [{"loss": 1.0, "accuracy": 0.5}]}
    (summary,) = make_summaries({"raw": scores}, parameters=9, device="cpu", about={"steps": 6, "epochs": 2})
    return summary | {"seconds": 1.5, "images_per_second": 2.0, "prediction": "as it is"}


def test_there_is_no_summary_before_the_end(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == {}
    for summary in (a_summary(), summarize_seeds((7, 2), [a_summary()] * 2)):
        (tmp_path / SUMMARY_FILE).write_text(json.dumps(summary))
        assert read_summary(tmp_path) == summary


WRONG = (
    {"steps": "6"},
    {"versions": {"jax": 1}},
    {"train": {"loss": 1.0}},
    {"train": {"loss": 1.0, "accuracy": 10**400}},
    {"ema": {"test": []}},
    {"seconds": None},
    {"seeds": {}},
)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", "null", "{}", "[" * 100_000, "9" * 5000, *(json.dumps(a_summary() | w) for w in WRONG)],
)
def test_a_damaged_summary_is_told_once_and_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / SUMMARY_FILE).write_text(content)
    assert read_summary(tmp_path) == read_summary(tmp_path) == {}
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/summary.json: ")
    assert "is left out, and made again when the training ends" in line


@pytest.mark.parametrize("damage", ["bytes", "folder", "pipe", "link loop"])
def test_something_else_in_place_of_a_summary(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    put_in_place(tmp_path / SUMMARY_FILE, damage)
    assert read_summary(tmp_path) == {}
    assert len(capfd.readouterr().err.splitlines()) == 1
