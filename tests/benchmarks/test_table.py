"""The tables of docs/benchmarks.md, and the numbers of the README, are those of benchmarks/results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from benchmarks.rounds import summarize
from benchmarks.suite import RESULTS
from benchmarks.table import BEGIN, END, contest_table, format_reports, read_reports, replaced
from resnet.errors import UserError
from tests.command_line import ROOT


def result(rates: dict[str, list[float]], memory: dict[str, float], **case: Any) -> dict[str, Any]:
    rows = summarize(rates, floor_rate=100.0)
    for row in rows:
        row |= {"peak_memory": memory[row["name"]], "peak_device_memory": None}
    base = {"task": "train", "depth": 50, "batch": 32, "image_size": 64, "dtype": "float32"}
    return {"case": base | case, "rows": rows}


def report(benchmark: str, cpu: str = "a CPU", **fields: Any) -> dict[str, Any]:
    machine = {"cpu": cpu, "cores": 2, "system": "Linux", "load_before": 0.1}
    return {"benchmark": benchmark, "machine": machine, "versions": {"jax": "1.2"}} | fields


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_contests() -> None:
    first = result(
        {"ours": [60.0, 62.0], "flax": [10.0, 10.0], "torch_eager": [40.0, 31.0]},
        {"ours": 1.5e9, "flax": 2e9, "torch_eager": 1e9},
    )
    second = result({"ours": [5.0]}, {"ours": 1.5e9}, task="inference", dtype="bfloat16", depth=18)
    headers, _, train, inference = cells(contest_table([first, second]))
    assert headers[1:4] == ["ours", "flax", "torch_eager"]
    assert train == [
        "train, ResNet-50, 32 of 64×64",  # noqa: RUF001
        "61.0",
        "10.0",
        "**35.5**",
        "1.75 (1.50–2.00)",  # noqa: RUF001
        "6.10 (6.00–6.20)",  # noqa: RUF001
        "0.61",
        "1500, 1000 (torch_eager)",
    ]
    assert inference[0].startswith("inference, ResNet-18")
    assert inference[0].endswith("bfloat16")
    assert inference[1:] == ["5.0", "", "", "", "", "0.05", "1500"]


def test_startup_and_growth() -> None:
    spread = {"median": 2.0, "low": 1.5, "high": 2.5}
    start = {"seconds": spread, "peak_memory": {"median": 1.2e9}}
    startup = report(
        "startup",
        case={"depth": 50, "batch": 32, "image_size": 64},
        results={
            "first": start,
            "warm": start,
            "phases": {"data": spread},
            "imports": {"jax": {"median": 0.987}},
        },
    )
    base = {"depth": 50, "batch": 32, "image_size": 64, "dataset_size": 1080, "devices": 1}
    point = {"seconds_per_step": spread, "images_per_second": spread, "peak_memory": 2e9}
    growth = report(
        "growth",
        base=base,
        points=[
            point | {"axis": None, "case": base},
            point | {"axis": "dataset_size", "case": base | {"dataset_size": 99999}},
        ],
    )
    text = format_reports([startup, growth])
    assert text.count("a CPU, 2 cores, Linux; jax 1.2:") == 1
    assert "Seconds of the second start: data 2.00. Of the imports: jax 0.99." in text
    assert ["second, warm compilation cache", "2.0 (1.5–2.5)", "1200"] in cells(text)  # noqa: RUF001
    assert ["dataset size 99,999", "2.000", "2.0", "2000"] in cells(text)
    assert "](growth.png)" in text


def test_every_machine_has_tables_of_its_own() -> None:
    reports = [report("train", cpu, results=[result({"ours": [5.0]}, {"ours": 1e9})]) for cpu in "BAB"]
    text = format_reports(reports)
    before, after = text.split("B, 2 cores")
    assert "A, 2 cores" in before
    assert [part.count("train, ResNet-50") for part in (before, after)] == [1, 2]


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert replaced(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter"
    assert replaced(replaced(text, "new"), "new") == replaced(text, "new")


@pytest.mark.parametrize("text", ["neither", BEGIN, f"{END} {BEGIN}"])
def test_missing_markers_are_reported(text: str) -> None:
    with pytest.raises(UserError, match=r"docs/benchmarks\.md: no "):
        replaced(text, "new")


def test_missing_and_damaged_reports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no reports there; .* python -m benchmarks\.suite"):
        read_reports(tmp_path)
    (tmp_path / "startup.json").write_text("{")
    with pytest.raises(UserError, match=r"startup\.json: not JSON .* --only=startup"):
        read_reports(tmp_path)


def test_reports_come_in_the_order_of_the_suite(tmp_path: Path) -> None:
    for name in ("startup", "train_224_b32", "train_64_b32", "no_row"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}))
    assert [report["name"] for report in read_reports(tmp_path)] == [
        "train_64_b32",
        "train_224_b32",
        "startup",
    ]


def test_the_page_keeps_what_is_around_the_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(f"Title\n{BEGIN}\n{END}\nEnd\n")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "read_reports", lambda _: [report("train", results=[])])
    table._run(only_print=True)
    assert page.read_text() == f"Title\n{BEGIN}\n{END}\nEnd\n"
    table._run(only_print=False)
    heading = "a CPU, 2 cores, Linux; jax 1.2:"
    assert page.read_text() == f"Title\n{BEGIN}\n{heading}\n{END}\nEnd\n"


def test_the_page_of_the_project_has_the_tables_of_the_reports() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert replaced(page, format_reports(read_reports(RESULTS))) == page


def test_the_numbers_in_the_readme_are_those_of_the_page() -> None:
    page_rows = cells((ROOT / "docs" / "benchmarks.md").read_text())
    readme_rows = cells((ROOT / "README.md").read_text())
    speeds = [row for row in readme_rows if re.match(r"(training|inference), \d+ of ", row[0])]
    assert speeds
    for label, *numbers in speeds:
        task, case = label.replace("training", "train").split(", ")
        (page_row,) = (row for row in page_rows if row[0] == f"{task}, ResNet-50, {case}")
        for number in numbers:
            assert number.partition(",")[0] in [cell.strip("*") for cell in page_row]
