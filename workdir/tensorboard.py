"""The metrics of a run as TensorBoard events."""

import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# tensorboardX imports PyTorch where it is installed, which takes seconds of every start and is not needed.
_modules: dict[str, Any] = sys.modules
_torch = _modules.setdefault("torch", None)
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.record_writer import masked_crc32c  # noqa: E402
from tensorboardX.summary import scalar  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

VERSION = "brain.Event:2"


class EventsFile:
    """A file of scalars, which are written as they come.

    The `SummaryWriter` of tensorboardX writes in a thread, which can tell nobody that the disk is full.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Goes on after `step`. TensorBoard hides what a killed run had written beyond it.

        Raises:
            OSError: the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second; without the step, one of the same name would be overwritten.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{step:09}"
        self._file = (folder / name).open("ab")
        self._write(Event(file_version=VERSION))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        self._file.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars `values` after `step`.

        Raises:
            OSError: the file cannot be written.
        """
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._file.flush()

    def close(self) -> None:
        """Closes the file. What could not be written has been told."""
        with suppress(OSError):
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        record = event.SerializeToString()
        length = struct.pack("<Q", len(record))
        for part in (length, record):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))
