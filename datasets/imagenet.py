"""The 1,000 classes of ImageNet (Russakovsky et al. 2015, arXiv:1409.0575): ids and names, no images.

`imagenet_classes.txt` has a line for each, in the order of the labels: WordNet's id and the name that
torchvision (BSD 3-Clause licence) gives it, which is unique.
"""

from collections.abc import Sequence
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


def synsets_of(class_names: Sequence[str]) -> tuple[str, ...]:
    """WordNet's ids of `class_names` if these are ImageNet's in its order, whoever named them; else none.

    Others name the classes by the ids, or by more synonyms: `tench, Tinca tinca`.
    """
    if len(class_names) != len(classes()):
        return ()
    agreeing = sum(
        theirs == synset or ours.lower() in theirs.lower()
        for theirs, (synset, ours) in zip(class_names, classes().items(), strict=True)
    )
    return tuple(classes()) if agreeing > len(class_names) / 2 else ()
