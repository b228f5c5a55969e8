"""Several hosts in tests: processes of one machine, each with some devices of the CPU."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.command_line import ROOT, Result
from tests.quick_compilation import QUICK_XLA_FLAGS

TIMEOUT = 5  # seconds of `config.hosts.timeout`
PATIENCE = 120.0  # seconds, the most that a test waits for all hosts


def free_port() -> int:
    """Returns a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


class Hosts:
    """Processes that run Python with the same arguments and with `config.hosts` of their own.

    Used as a context manager, it leaves none of them behind.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        count: int,
        devices: int | Sequence[int],
        folder: Path,
        own: Sequence[Sequence[object]] = (),
    ) -> None:
        """Starts `count` processes of `devices` each; `own` are the arguments of each beside the common ones.

        `devices` may have a number for each.

        What they print goes to files in `folder`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._processes = folder, []
        port, own = free_port(), own or [[]] * count
        devices = [devices] * count if isinstance(devices, int) else devices
        for index in range(count):
            flags = host_flags(port, count, index) if count > 1 else []
            command = [sys.executable, *map(str, [*arguments, *flags, *own[index]])]
            with self._file(index, "out").open("w") as out, self._file(index, "err").open("w") as err:
                environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(devices[index])}
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
                )
            self._processes.append(process)

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _file(self, index: int, stream: str) -> Path:
        return self._folder / f"host_{index}.{stream}"

    def wait_for(self, *lines: str) -> None:
        """Waits until the first host has printed a line that begins with one of `lines`."""
        deadline = time.monotonic() + PATIENCE
        while not any(text.startswith(lines) for text in self._file(0, "out").read_text().splitlines()):
            assert time.monotonic() < deadline, f"no {lines}: {self._file(0, 'err').read_text()}"
            assert self._processes[0].poll() is None, self._file(0, "err").read_text()
            time.sleep(0.05)

    def send(self, index: int, signum: int) -> None:
        """Sends a signal to one of the hosts."""
        self._processes[index].send_signal(signum)

    def results(self) -> list[Result]:
        """Waits until all hosts have ended, and returns what each printed and its exit code."""
        deadline = time.monotonic() + PATIENCE
        codes = [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self._processes]
        return [
            Result(code, self._file(index, "out").read_text(), self._file(index, "err").read_text())
            for index, code in enumerate(codes)
        ]


def xla_flags(devices: int) -> str:
    """Returns the XLA_FLAGS of a process with this number of devices."""
    return f"{QUICK_XLA_FLAGS} --xla_force_host_platform_device_count={devices}"


def host_flags(port: int, number: int, index: int) -> list[str]:
    """Returns the flags that make a process one of `number` hosts."""
    fields = {
        "coordinator": f"127.0.0.1:{port}",
        "number": number,
        "index": index,
        "timeout": TIMEOUT,
    }
    return [f"--config.hosts.{name}={value}" for name, value in fields.items()]
