"""The ids and names of ImageNet's 1,000 classes (Russakovsky et al. 2015, arXiv:1409.0575).

`imagenet_classes.txt` has one line for each class, in the order of the labels: its WordNet id and its name in
torchvision (BSD 3-Clause licence). Ids and names are unique.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

CLASSES_FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def classes() -> dict[str, str]:
    """Maps WordNet ids, such as n01440764, to names, such as tench, in the order of the labels."""
    return dict(line.split(" ", 1) for line in CLASSES_FILE.read_text().splitlines())


def class_names_of(count: int) -> tuple[str, ...]:
    """Returns the names of ImageNet's classes if `count` is 1,000, otherwise the labels as names."""
    return tuple(classes().values()) if count == 1000 else tuple(map(str, range(count)))


def synsets_of(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the WordNet ids of `class_names` if these are ImageNet's classes in its order, otherwise none.

    Other projects use the ids as names, or add synonyms, such as `tench, Tinca tinca`.
    """
    if len(class_names) != len(classes()):
        return ()
    matches = sum(
        class_name == synset or name.lower() in class_name.lower()
        for class_name, (synset, name) in zip(class_names, classes().items(), strict=True)
    )
    return tuple(classes()) if matches > len(class_names) / 2 else ()
