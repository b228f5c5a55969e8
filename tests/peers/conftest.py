"""Only where the peers are installed; ends with the table of errors."""

from importlib.util import find_spec

import pytest
from tabulate import tabulate

if any(find_spec(name) is None for name in ("torch", "transformers", "keras", "timm")):
    collect_ignore_glob = ["*"]

ROWS: list[dict[str, object]] = []
VARIANTS: list[dict[str, object]] = []


@pytest.fixture(scope="session")
def table() -> list[dict[str, object]]:
    """Rows for the table at the end."""
    return ROWS


@pytest.fixture(scope="session")
def variants() -> list[dict[str, object]]:
    """Rows for the table of variants: the peer's answer, and ours or the line."""
    return VARIANTS


LINES: list[str] = []


@pytest.fixture(scope="session")
def lines() -> list[str]:
    """Models that are refused, with the line, for the list at the end."""
    return LINES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.section("largest relative error, ours against the peer's own code")
        terminalreporter.write_line(tabulate(ROWS, headers="keys", floatfmt=".1e"))
    if VARIANTS:
        terminalreporter.section("variants of files: probabilities of the peer, and ours or the line")
        terminalreporter.write_line(tabulate(VARIANTS, headers="keys", disable_numparse=True))
    if LINES:
        terminalreporter.section("models that are refused, and the line")
        for line in LINES:
            terminalreporter.write_line(line)
