"""Several machines that train one run together: how they find each other, agree, and end together.

A host is one process with its devices. `together` joins the hosts of a run by `jax.distributed`. Host 0 is
the writer: it alone writes to the workdir. Messages between hosts are small, and go through the key-value
store of JAX's coordinator, which host 0 runs. Gradients take another way. On a single machine nothing here
does anything.

JAX is imported inside functions, because its environment must be prepared before.
"""

import ctypes
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resnet import signals
from resnet.errors import UserError
from resnet.streams import libraries_silenced
from resnet.wording import first_of

# The files in which hosts may not differ.
ROOMS = ("datasets", "devices", "evaluation", "modes", "resnet", "training", "workdir")
PROGRAM = ("*.py", *(f"{room}/**/*.py" for room in ROOMS))
# Settings of JAX that change what a step computes. Its environment variables set them too.
OF_JAX = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)

ABORTS_FROM = (0, 10)  # of jaxlib; see `_aborts`

WRITER = 0  # the index of the host that writes; JAX runs its coordinator there too
BEAT = 1.0  # seconds between two signs of life
FAREWELL = 5.0  # seconds, the most for which the coordinator waits until the others know why it ends
GRACE = 30  # seconds after which JAX itself ends a silent run, had we not done so
# How errors of communication read, whose types differ from one version of JAX to the next.
LOST = "Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|CoordinationService"
# JAX asks for an end of every wait. Ours end when a host falls silent, see `_Watch`.
FOREVER = 10**9  # milliseconds
# The variables that clusters known to JAX set in the processes that they start. SLURM sets its last one only
# in steps of srun: the script of a job is one process, whatever the job has asked for.
CLUSTERS = (
    ("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_SIZE",),
    ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
)
KEYS = "resnet"  # the folder of our keys in the store
SIGNS = f"{KEYS}/signs"  # each host's sign of life, and the failure that ends all of them
SAME_COMMAND = "the same command goes on from the last checkpoint, on as many hosts as there are then"
ABORTED = f"JAX has aborted host 0; TF_CPP_MIN_LOG_LEVEL=0 shows what it says about that; {SAME_COMMAND}"
COORDINATOR_LOST = f"host 0 has died or cannot be reached any more; {SAME_COMMAND}"
ABORTED_BESIDE = (
    "host 0 has died or cannot be reached any more, or JAX has aborted, which TF_CPP_MIN_LOG_LEVEL=0"
    f" explains; {SAME_COMMAND}"
)


class Failure(NamedTuple):
    """Why all hosts end: what is wrong with `host`, and the exit code of the others."""

    host: int
    what: str
    code: int = 2

    @property
    def line(self) -> str:
        """The line that the other hosts print."""
        return f"error: host {self.host} {self.what}"


# What a run asks


def index() -> int:
    """Returns the index of this host, 0 on a single machine."""
    return _joined.index if _joined else 0


def count() -> int:
    """Returns the number of hosts, 1 on a single machine."""
    return _joined.count if _joined else 1


def is_writer() -> bool:
    """Whether this host writes to the workdir."""
    return index() == WRITER


def broadcast(value: Any = None) -> Any:
    """Returns the `value` (JSON) of the writer on every host. All hosts call it in the same order."""
    return _joined.broadcast(value) if _joined else value


def largest(value: int) -> int:
    """Returns the largest `value` of all hosts. All of them call it at the same place of the program."""
    if not _joined:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def agree(kind: str, facts: Mapping[str, Any]) -> None:
    """Checks that all hosts have the same `facts` (JSON), such as settings by their names.

    Raises:
        UserError: this host differs from the writer. The message begins with `kind` and names the facts.
    """
    if not _joined:
        return
    expected, found = broadcast(dict(facts)), json.loads(json.dumps(dict(facts)))
    differing = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if differing:
        different = [f"{n} (there {expected.get(n)!r}, here {found.get(n)!r})" for n in differing]
        raise UserError(
            f"host {index()}: has other {kind} than host {WRITER}: {first_of(different, 3, '; ')};"
            " start all with the same"
        )
    _joined.barrier()


def describe_program() -> dict[str, Any]:
    """Returns what a host trains with: digests of the project's files, versions, JAX's settings, devices."""
    import jax

    from devices.program_cache import PACKAGES, PROJECT

    files = sorted(file for pattern in PROGRAM for file in PROJECT.glob(pattern))
    program = {
        str(file.relative_to(PROJECT)): hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files
    }
    program |= {package: version(package) for package in (*PACKAGES, "orbax-checkpoint")}
    program |= {name: getattr(jax.config, name) for name in OF_JAX}
    program |= {"python": platform.python_version(), "platform": jax.default_backend()}
    return program | {"number of devices": jax.local_device_count()}


# Joining and ending


@contextmanager
def together(settings: ConfigDict) -> Iterator[None]:
    """Joins the hosts of `config.hosts`, or of the cluster that has started the program, while the body runs.

    With neither, it does nothing. Nothing may have touched a device before. At the end all hosts wait for
    each other. If the body fails on one host, or a host dies, all others print why in a line and end.

    Raises:
        UserError: the coordinator does not answer in `settings.timeout` seconds.
    """
    global _joined
    if not (settings.number > 1 or (not settings.coordinator and _cluster_size() > 1)):
        yield
        return
    _joined = _Joined(settings)
    try:
        yield
    except UserError as error:
        _joined.fail(Failure(index(), f"has ended ({error})"))
        raise
    except Exception as error:
        # If it is one of communication, its cause is another host, which the watch names before long.
        if re.search(LOST, str(error)):
            time.sleep(settings.timeout + 3 * BEAT)
        _joined.fail(Failure(index(), f"has ended ({type(error).__name__})"))
        traceback.print_exc()
        os._exit(1)  # When Python shuts down, JAX would wait for the others.
    _joined.part()
    _joined = None


def _cluster_size() -> int:
    """Returns the number of processes that a cluster has started, as JAX reads its environment, or else 1."""
    is_tpu = importlib.util.find_spec("libtpu") is not None
    if not is_tpu and not any(all(name in os.environ for name in names) for names in CLUSTERS):
        return 1
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1":
        return 1
    from jax._src import clusters

    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        raise UserError(
            "cluster: JAX cannot read what this version of Open MPI says; set config.hosts.coordinator,"
            " number and index on every host"
        )
    try:
        known = [cluster for cluster in clusters.ClusterEnv._cluster_types if not cluster.opt_in_only_method]
        return next((cluster.get_process_count() for cluster in known if cluster.is_env_present()), 1)
    except Exception as error:
        raise UserError(
            f"cluster: JAX cannot read its environment ({error}); set config.hosts.coordinator, number and"
            " index on every host"
        ) from None


def _check_port(coordinator: str) -> None:
    """Checks that no other program listens at the port of the `coordinator`: JAX would share it in silence.

    Raises:
        UserError: one does.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # One that has ended does not count.
        try:
            listener.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            raise UserError(
                f"config.hosts.coordinator={coordinator}: the port cannot be used ({error.strerror}); name"
                " another one on every host"
            ) from None


def _aborts() -> bool:
    """Whether JAX aborts when the coordinator is lost, so that we can say why. An older one just exits."""
    return tuple(map(int, version("jaxlib").split(".")[:2])) >= ABORTS_FROM


class _Joined:
    """This host among the others."""

    def __init__(self, settings: ConfigDict) -> None:
        self._said = self._barriers = 0
        address = settings.coordinator or "the first host of the cluster"
        self._reason = (
            f"config.hosts.coordinator={address}: not all hosts came together there within"
            f" {settings.timeout} s; check the address, and that every host was started, or allow more"
            " time by config.hosts.timeout"
        )
        self._open = ExitStack()
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0" and _aborts():
            # JAX writes pages about a host that is lost; a line of ours says it.
            self._open.enter_context(libraries_silenced())
        self._open.enter_context(self._ending_in_one_line())
        self._initialize(settings)
        self._reason = ABORTED if self.index == WRITER else ABORTED_BESIDE
        self._watch = _Watch(self, settings.timeout)
        signals.farewells.append(self._say_stopped)

    def _initialize(self, settings: ConfigDict) -> None:
        import jax
        from jax._src import distributed

        if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in os.environ:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        chosen: dict[str, Any] = {}
        if settings.coordinator:
            if settings.index == WRITER:
                _check_port(settings.coordinator)
            chosen = {
                "coordinator_address": settings.coordinator,
                "num_processes": settings.number,
                "process_id": settings.index,
                "cluster_detection_method": "deactivate",
            }
        try:
            jax.distributed.initialize(
                **chosen,
                initialization_timeout=settings.timeout,
                heartbeat_timeout_seconds=settings.timeout + GRACE,
            )
        except Exception as error:
            raise UserError(f"{self._reason} ({error})") from None
        for signum in signals.SIGNALS:  # JAX has put a handler of its own in the place of ours.
            signal.signal(signum, signal.getsignal(signum))
        # The store of keys is not public. Orbax takes it from here too.
        state = distributed.global_state
        self.client, self.index, self.count = state.client, state.process_id, state.num_processes

    @contextmanager
    def _ending_in_one_line(self) -> Iterator[None]:
        """Ends the process with one line where JAX would abort it, as it does when the coordinator is lost.

        JAX calls `abort` of C in a thread of its own. Its handler is the only place to hear of that.
        """

        def at_abort(signum: int) -> None:
            self.end(f"error: {self._reason}", 2)

        handler, library = ctypes.CFUNCTYPE(None, ctypes.c_int)(at_abort), ctypes.CDLL(None)
        library.signal(int(signal.SIGABRT), handler)
        try:
            yield
        finally:
            library.signal(int(signal.SIGABRT), None)
            del handler  # It had to live until here.

    def broadcast(self, value: Any) -> Any:
        """Returns the `value` of the writer."""
        self._said += 1
        key = f"{KEYS}/said/{self._said}"
        if self.index == WRITER:
            self.client.key_value_set(key, json.dumps(value))
        return json.loads(self.client.blocking_key_value_get(key, FOREVER))

    def barrier(self) -> None:
        """Waits until all hosts are here."""
        self._barriers += 1
        self.client.wait_at_barrier(f"{KEYS}/barrier/{self._barriers}", FOREVER)

    def exchange_signs(self, beats: int) -> dict[str, str]:
        """Gives a sign of life. Returns the signs of all hosts, and a failure if there is one."""
        self.client.key_value_set(f"{SIGNS}/alive/{self.index}", str(beats), allow_overwrite=True)
        return {key.rpartition(f"{SIGNS}/")[2]: value for key, value in self.client.key_value_dir_get(SIGNS)}

    def fail(self, failure: Failure) -> None:
        """Tells the other hosts why all of them end."""
        self._watch.stop()
        with suppress(Exception):  # Another host has failed before, or the coordinator is gone.
            self.client.key_value_set(f"{SIGNS}/failure", json.dumps(failure))
        self.take_leave(failure)

    def take_leave(self, failure: Failure) -> None:
        """Lets the coordinator stay until the others know of the `failure`, by which they end."""
        folder, deadline = f"{KEYS}/left", time.monotonic() + FAREWELL
        with suppress(Exception):
            self.client.key_value_set(f"{folder}/{self.index}", "")
            others = {*range(self.count)} - {failure.host}  # which may be dead
            while self.index == WRITER and time.monotonic() < deadline:
                left = {int(key.rpartition("/")[2]) for key, _ in self.client.key_value_dir_get(folder)}
                if others <= left:
                    deadline = min(deadline, time.monotonic() + BEAT / 2)  # until they have ended, too
                time.sleep(BEAT / 10)

    def part(self) -> None:
        """Waits until every host has come to its end, and leaves them."""
        import jax

        self.barrier()
        self._watch.stop()
        signals.farewells.remove(self._say_stopped)
        jax.distributed.shutdown()
        self._open.close()

    def _say_stopped(self, code: int) -> None:
        """Tells the others that a signal ends this host at once, as it does outside of the training."""
        name = signal.Signals(code - 128).name
        failure = Failure(self.index, f"was stopped by {name}; {SAME_COMMAND}", code)
        teller = threading.Thread(target=self.fail, args=(failure,), daemon=True)
        teller.start()
        teller.join(FAREWELL + BEAT)

    def end(self, line: str, code: int) -> None:
        """Ends this process with `line`, whatever its other threads do."""
        with suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), f"{line}\n".encode())
        signals.remove_temporary()
        os._exit(code)


class _Watch:
    """A thread that gives signs of life, and ends this host when another one has failed or is silent."""

    def __init__(self, host: _Joined, timeout: float) -> None:
        self._host, self._timeout = host, timeout
        self._stopped = threading.Event()
        # The last sign of every host, and when it came.
        self._heard = dict.fromkeys(range(host.count), ("", time.monotonic()))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops watching."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(FAREWELL)

    def _run(self) -> None:
        answered = time.monotonic()
        for beats in itertools.count():
            if self._stopped.wait(BEAT):
                return
            try:
                signs = self._host.exchange_signs(beats)
                answered = time.monotonic()
            except Exception:
                if time.monotonic() - answered > self._timeout:
                    self._host.end(f"error: {COORDINATOR_LOST}", 2)
                continue
            if "failure" in signs:
                failure = Failure(*json.loads(signs["failure"]))
                self._host.take_leave(failure)
                self._host.end(failure.line, failure.code)
            if (silent := self._silent_host(signs)) is not None:
                what = f"has not answered for {self._timeout} s, and has probably died; {SAME_COMMAND}"
                failure = Failure(silent, what)
                self._host.fail(failure)
                self._host.end(failure.line, failure.code)

    def _silent_host(self, signs: Mapping[str, str]) -> int | None:
        """Returns the host that has given no new sign for too long, or None."""
        now = time.monotonic()
        for host, (sign, _) in self._heard.items():
            if (new := signs.get(f"alive/{host}", "")) != sign:
                self._heard[host] = new, now
        return next((host for host, (_, at) in self._heard.items() if now - at > self._timeout), None)


_joined: _Joined | None = None
