"""What may stand in place of a file or a folder, after a disk or a hand has gone wrong."""

import os
import shutil
from pathlib import Path

DAMAGES = ("empty", "cut", "bytes", "folder", "pipe", "dangling link", "link loop")


def put_in_place(path: Path, damage: str) -> None:
    """Puts what `damage`, one of `DAMAGES`, names in place of the file or folder at `path`."""
    content = path.read_bytes() if path.is_file() else b"{"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "dangling link":
        path.symlink_to("nothing")
    elif damage == "link loop":
        path.symlink_to(path.name)
    else:
        bad = {"empty": b"", "cut": content[: len(content) // 2], "bytes": b"\xff\xfe{\0" * 20}
        path.write_bytes(bad[damage])
