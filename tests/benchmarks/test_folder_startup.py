"""Starts on a folder of images: the table of their seconds and memory."""

from benchmarks.folder_startup import format_report
from benchmarks.rounds import spread


def test_the_table_has_medians_and_ranges() -> None:
    result = {"seconds": spread([3.0, 1.0, 2.0]), "peak_memory": spread([5e8, 6e8, 7e8])}
    row = format_report({"results": {"first start": result}}).splitlines()[-1].split()
    assert row == ["first", "start", "2.0", "1.0-3.0", "600", "500-700"]
