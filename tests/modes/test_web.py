"""`--mode=web` serves the page with a network in it, on this machine alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from modes.flags import HANDS
from tests.command_line import ROOT, Run, assert_refused


def without_screen() -> dict[str, str]:
    """Returns the environment without what would let a browser start."""
    return {name: value for name, value in os.environ.items() if "DISPLAY" not in name}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`--mode=web` without anything else."""
    process = subprocess.Popen(
        [sys.executable, "main.py", "--mode=web", "--port=0"],
        cwd=ROOT,
        env={**without_screen(), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_it_serves_the_network_that_comes_with_the_project(
    server: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert server.stdout is not None
    line = server.stdout.readline()
    address = line.split()[0]
    assert line == f"{address} shows {HANDS}; Ctrl-C ends it\n"
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{address}/network.json") as answer:
        assert json.load(answer)["class_names"] == list("012345")
    with urllib.request.urlopen(f"{address}/network.onnx") as answer:
        assert answer.read() == HANDS.read_bytes()
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=30) == 130
    assert server.stderr is not None
    assert server.stderr.read() == ""
    assert list(tmp_path.iterdir()) == [], "the folder of the page is removed"


@pytest.mark.parametrize("port", ["-1", "65536", "http", "8000.0", ""])
def test_a_port_that_is_none(run: Run, port: str) -> None:
    assert_refused(
        run("--mode=web", f"--port={port}"), f"--port={port}: expected a whole number from 0 to 65,535"
    )


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(
            run("--mode=web", f"--port={port}"), f"--port={port}: cannot be used (Address already in use)"
        )


def test_a_run_and_weights_are_not_shown_at_once(run: Run, tmp_path: Path) -> None:
    result = run("--mode=web", "--weights=model.onnx", f"--workdir={tmp_path}")
    assert_refused(result, "--weights and --workdir: expected one network, of the file or of the run")
