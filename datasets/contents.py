"""What a data set holds, as text: a line for each image."""

from hashlib import sha256

import numpy as np

from datasets.threads import map_in_threads
from datasets.types import Dataset, Split
from resnet.files import printable

CHUNK = 256  # images whose digests a thread computes at a time


def pixel_digest(image: np.ndarray) -> str:
    """Returns a digest of the pixels of an image, 32 hexadecimal digits."""
    return sha256(np.ascontiguousarray(image).data).hexdigest()[:32]


def pixel_digests(images: np.ndarray) -> list[str]:
    """Returns the `pixel_digest` of each of `images` `[N, H, W, 3]`."""

    def of_chunk(start: int) -> list[str]:
        return [pixel_digest(image) for image in images[start : start + CHUNK]]

    chunks = map_in_threads(of_chunk, range(0, len(images), CHUNK))
    return [digest for chunk in chunks for digest in chunk]


def image_table(dataset: Dataset) -> str:
    """Returns a line `split\\tclass\\tfile\\tdigest` for each image, sorted, with the headings first.

    Images without files are named by their numbers. The digest is the beginning of `pixel_digest`.
    """
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    lines = ["split\tclass\tfile\tdigest"]
    for name, split in splits.items():
        if split is not None:
            lines += sorted(_lines(name, split, dataset.class_names))
    return "\n".join(lines) + "\n"


def _lines(name: str, split: Split, class_names: tuple[str, ...]) -> list[str]:
    files = [f"{name} {i}" for i in range(len(split.labels))] if split.files is None else split.files
    digests = pixel_digests(split.images)
    fields = zip(split.labels, files, digests, strict=True)
    return [
        f"{name}\t{printable(class_names[label])}\t{printable(file)}\t{digest[:12]}"
        for label, file, digest in fields
    ]
