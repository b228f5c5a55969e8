"""The images that a run was trained on, as it keeps them: `images.tsv`, and what has changed since."""

import hashlib
from pathlib import Path

from resnet.errors import UserError
from resnet.files import read_file
from resnet.json_files import tell_once

IMAGES_FILE = "images.tsv"
MAX_BYTES = 2**30  # ten million images
MAX_EXAMPLES = 3  # names of files in a description


def table_digest(table: str) -> str:
    """Returns a checksum of the content of an `images.tsv`."""
    return hashlib.sha256(table.encode()).hexdigest()


def read_images_file(workdir: Path, digest: str) -> str:
    """Returns the content of the `images.tsv` in `workdir`, "" if there is none.

    One that cannot be read or does not have this `digest`, unless that is "", is told on stderr and left out.
    """
    path = workdir / IMAGES_FILE
    try:
        table = read_file(path, MAX_BYTES).decode()
        if digest in ("", table_digest(table)):
            return table
        problem = f"{path}: has changed since it was written"
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        problem = f"{path}: is not UTF-8"
    except UserError as error:
        problem = str(error)
    tell_once(f"warning: {problem}; it is left out, and a training that goes on makes it again")
    return ""


def describe_changes(old: str, new: str) -> str:
    """Says in one line how the images of two tables differ, or returns "" if they do not.

    The tables are those of `datasets.contents.image_table`. An example: "2 images added (cat/new.jpg,
    dog/new.jpg), 1 removed (cat/1.jpg), 3 changed (dog/4.jpg, ...)". An image in another split or class
    counts as moved.
    """
    before, after = _rows(old), _rows(new)
    common = [image for image in after if image in before]
    changes = {
        "added": [image for image in after if image not in before],
        "removed": [image for image in before if image not in after],
        "changed": [image for image in common if _has_changed(before[image], after[image])],
    }
    if not any(changes.values()):  # Otherwise splits are drawn anew, which says no more.
        moved = [image for image in common if before[image][:2] != after[image][:2]]
        changes["moved to another split or class"] = moved
    parts: list[str] = []
    for change, images in changes.items():
        if images:
            names = [name for name, _ in images[:MAX_EXAMPLES]]
            names += ["..."] if len(images) > MAX_EXAMPLES else []
            noun = "" if parts else " image" if len(images) == 1 else " images"
            parts.append(f"{len(images):,}{noun} {change} ({', '.join(names)})")
    return ", ".join(parts)


def _has_changed(before: tuple[str, str, str], after: tuple[str, str, str]) -> bool:
    """Whether an image of one split has other pixels. Those of another may only be stored at another size."""
    return before[0] == after[0] and before[2] != after[2]


def _rows(table: str) -> dict[tuple[str, int], tuple[str, str, str]]:
    """Returns split, class and digest of each image by its file and how often that occurred before."""
    rows: dict[tuple[str, int], tuple[str, str, str]] = {}
    times: dict[str, int] = {}
    for line in table.split("\n")[1:]:
        if line.count("\t") == 3:
            split, label, file, digest = line.split("\t")
            times[file] = times.get(file, -1) + 1
            rows[file, times[file]] = (split, label, digest)
    return rows
