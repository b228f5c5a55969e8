"""Growth is measured along one axis at a time, each point in a fresh process, and drawn."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import growth
from benchmarks.growth import cases
from benchmarks.growth_plot import plot
from benchmarks.peers import Case
from benchmarks.rounds import Failed
from resnet.errors import UserError


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["growth", *arguments])
    return growth._parse()


def test_one_axis_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    options = parse(
        monkeypatch,
        "--batch=8,16,4",
        "--image_size=32",
        "--depth=18,50",
        "--dataset_size=64,128",
        "--devices=1,2",
        "--steps=3",
    )
    base = Case("train", 18, 8, 32, "float32", "cpu", 3, dataset_size=64, devices=1)
    assert list(cases(options)) == [
        (None, base),
        ("batch", replace(base, batch=16)),
        ("batch", replace(base, batch=4)),
        ("depth", replace(base, depth=50)),
        ("dataset_size", replace(base, dataset_size=128)),
        ("devices", replace(base, devices=2)),
    ]


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--depth=50,20", "--depth=20: expected some of 18, 34"),
        ("--batch=32,2000", "--dataset_size=1080: fewer images than a batch of 2000"),
        ("--devices=1,3", "--devices=3: does not divide a batch of 32"),
    ],
)
def test_impossible_cases_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, argument: str, line: str
) -> None:
    monkeypatch.setattr(growth, "start", None)
    with pytest.raises(UserError) as raised:
        growth._run(parse(monkeypatch, argument))
    assert str(raised.value).startswith(line)


class FakeWorker:
    """A worker whose steps take a millisecond an image, and whose memory grows with the batch."""

    running = 0

    def __init__(self, name: str, case: Case, caches: Path) -> None:
        if case.depth == 101:
            raise Failed("ended with exit code -9")
        self.case = case
        self.hello = {"peak_memory": 0, "compiling": {"peak_memory": 3e9, "warm_up_seconds": 9.0}}
        FakeWorker.running += 1

    def run(self, steps: int) -> dict[str, Any]:
        assert FakeWorker.running == 1  # No other point disturbs it.
        return {
            "seconds": steps * self.case.batch / 1000,
            "peak_memory": 10**9 + 10**7 * self.case.batch,
            "peak_device_memory": None,
        }

    def stop(self) -> None:
        FakeWorker.running -= 1


def test_report_and_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(growth, "start", FakeWorker)
    picture = tmp_path / "docs" / "growth.png"
    growth._run(parse(monkeypatch, "--batch=32,64", "--depth=50,101", f"--plot={picture}"))
    lines = capsys.readouterr().out.splitlines()
    assert ["batch", "64", "0.064", "0.064-0.064", "1000.0", "1640", "3000"] in [s.split() for s in lines]
    assert lines[-1] == "depth 101: ended with exit code -9"
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 400


def test_the_picture_shows_every_axis_that_has_points(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    spread = {"median": 1.0, "low": 0.9, "high": 1.1}
    base = {"batch": 32, "image_size": 64, "depth": 50, "dataset_size": 1080, "devices": 1}
    point = {
        "seconds_per_step": spread,
        "images_per_second": spread,
        "peak_memory": 1e9,
        "compiling": {"peak_memory": 2e9},
    }
    points = [
        point | {"axis": axis, "case": base | ({axis: 2 * base[axis]} if axis else {})}
        for axis in (None, "batch", "depth")
    ]
    machine = {"cpu": "made up", "cores": 2}
    report = {"machine": machine, "base": base, "points": points[:2], "left_out": []}
    widths = []
    for report["points"] in (points[:2], points):
        plot(report, tmp_path / "growth.png")
        with Image.open(tmp_path / "growth.png") as image:
            widths.append(image.width)
    assert widths[0] < widths[1]


@pytest.mark.parametrize("depths", ["50", "101,50"])  # A base of 101 layers fails.
def test_a_picture_that_cannot_be_drawn_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture, depths: str
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(growth, "start", FakeWorker)
    sizes = ("--batch=32", "--image_size=64", "--dataset_size=1080", "--devices=1")
    picture = tmp_path / "growth.png"
    growth._run(parse(monkeypatch, *sizes, f"--depth={depths}", f"--plot={picture}"))
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{picture}: not drawn, ")
    assert not picture.exists()
