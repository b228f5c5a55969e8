"""The 1,000 classes of ImageNet (Russakovsky et al. 2015, arXiv:1409.0575): ids and names, no images.

`imagenet_classes.txt` has a line for each, in the order of the labels: WordNet's id and the name that
torchvision (BSD 3-Clause licence) gives it, which is unique.
"""

from functools import cache
from pathlib import Path

CLASSES_FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def classes() -> dict[str, str]:
    """WordNet id, such as n01440764, to name, such as tench, in the order of the labels."""
    return dict(line.split(" ", 1) for line in CLASSES_FILE.read_text().splitlines())


def class_names_of(count: int) -> tuple[str, ...]:
    """The names of ImageNet's classes for 1,000 of them, else the labels themselves: 0, 1, ..."""
    return tuple(classes().values()) if count == 1000 else tuple(map(str, range(count)))
