"""A contestant in a process of its own, which is asked for one round at a time over a pipe.

Frameworks in the same process would compete for threads, and Keras can use one backend only. The replies are
JSON objects, one a line.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers import CONTESTANTS, Case
from benchmarks.rounds import Failed

ROOT = Path(__file__).parent.parent
WARM_UP_STEPS = 3
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
# An idle worker must neither spin nor reserve the whole GPU.
SHARING = {
    "KMP_BLOCKTIME": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
FOLDER_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TMPDIR")
CPU_ONLY = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}


def device_variables(device: str) -> dict[str, str]:
    """Returns the environment variables by which a program runs on `device`, cpu or gpu."""
    return CPU_ONLY if device == "cpu" else {}


class Worker:
    """The process as its parent sees it: starts it, waits until it is warm, asks for rounds.

    `hello` has `parameters`, `device`, `warm_up_seconds`, and `peak_memory` in bytes after the warm-up.
    """

    def __init__(self, name: str, case: Case, caches: Path, warm_up_steps: int = WARM_UP_STEPS) -> None:
        """Starts the contestant `name`. Its compiled programs and temporary files lie in the folder `caches`.

        Raises:
            Failed: the contestant cannot be built or run.
        """
        environment = QUIET | SHARING | device_variables(case.device)
        environment |= CONTESTANTS[name].environment
        caches.mkdir(parents=True, exist_ok=True)
        environment |= {variable: str(caches) for variable in FOLDER_VARIABLES}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"  # as in devices/environment.py
        if case.devices > 1:
            flag = f"--xla_force_host_platform_device_count={case.devices}"
            environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `stop` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, json.dumps(asdict(case)), str(warm_up_steps)],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.hello = self._read()
        except BaseException:
            self.stop()
            raise

    def run(self, steps: int) -> dict[str, Any]:
        """Runs a round of `steps` steps; returns its `seconds`, and the `peak_memory` in bytes so far.

        Raises:
            Failed: the contestant fails.
        """
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # Its last line, which is read below, gives the reason.
        return self._read()

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            last = self._log.read().strip().splitlines()[-1:]
            raise Failed(f"ended with exit code {code}: {' '.join(last)[:200]}")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply


def start(name: str, case: Case, caches: Path, *, one_process: bool = False) -> Worker:
    """Returns a warm worker. If it compiles, another process has compiled into the folder `caches` before.

    Compiling takes memory that later starts of the same program do not need. `hello["compiling"]` has the
    `warm_up_seconds` and `peak_memory` of the process that compiled. With `one_process` the worker compiles
    itself, which is quicker.

    Raises:
        Failed: the contestant cannot be built or run.
    """
    compiling = None
    if CONTESTANTS[name].compiles and not one_process:
        compiler = Worker(name, case, caches, warm_up_steps=1)
        compiler.stop()
        compiling = {key: compiler.hello[key] for key in ("warm_up_seconds", "peak_memory")}
    worker = Worker(name, case, caches)
    worker.hello["compiling"] = compiling
    return worker


def main(name: str, case: Case, warm_up_steps: int) -> None:
    """Runs in the worker: builds the contestant, warms it up, and runs rounds until the pipe closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print must not mix with the replies.

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    try:
        started = time.perf_counter()
        module = importlib.import_module(f"benchmarks.peers.{CONTESTANTS[name].module}")
        contestant = module.make(name, case)
        if case.device == "gpu" and contestant.device == "cpu":
            raise RuntimeError("no GPU found; use --device=cpu")
        contestant.run(warm_up_steps)
        reply(
            parameters=contestant.parameters,
            device=contestant.device,
            warm_up_seconds=time.perf_counter() - started,
            peak_memory=_peak_memory(),
        )
        for line in sys.stdin:
            contestant.run(1)  # The other contestants have filled the processor's caches.
            started = time.perf_counter()
            contestant.run(int(line))
            seconds = time.perf_counter() - started
            reply(
                seconds=seconds,
                peak_memory=_peak_memory(),
                peak_device_memory=contestant.peak_device_memory(),
            )
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        reply(error=message[:200])
        raise


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1], Case(**json.loads(sys.argv[2])), int(sys.argv[3]))
