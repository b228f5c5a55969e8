"""Digests of pixels, by which images are recognised."""

from hashlib import sha256

import numpy as np

from datasets.lazy_images import Images
from datasets.threads import map_in_threads

CHUNK = 256  # images whose digests a thread computes at a time


def pixel_digest(image: np.ndarray) -> str:
    """Returns a digest of the pixels of an image, 32 hexadecimal digits."""
    return sha256(np.ascontiguousarray(image).data).hexdigest()[:32]


def pixel_digests(images: Images) -> list[str]:
    """Returns the `pixel_digest` of each of `images` `[N, H, W, 3]`."""

    def of_chunk(start: int) -> list[str]:
        return [pixel_digest(image) for image in images[start : start + CHUNK]]

    chunks = map_in_threads(of_chunk, range(0, len(images), CHUNK))
    return [digest for chunk in chunks for digest in chunk]
