"""The names of ImageNet's classes: complete, in order, and recognised under the names of other projects."""

import re

from resnet import imagenet


def test_classes_are_a_thousand_in_the_order_of_their_ids() -> None:
    synsets, names = list(imagenet.classes()), list(imagenet.classes().values())
    assert len(synsets) == len(set(synsets)) == len(set(names)) == 1000
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in synsets)
    assert synsets == sorted(synsets)
    # Labels that are widely known.
    assert (synsets[0], names[0]) == ("n01440764", "tench")
    assert (synsets[207], names[207]) == ("n02099601", "golden retriever")
    assert (synsets[999], names[999]) == ("n15075141", "toilet tissue")


def test_synsets_are_recognised_whoever_named_the_classes() -> None:
    synsets, names = tuple(imagenet.classes()), imagenet.class_names_of(1000)
    synonyms = [f"{name.capitalize()}, another name" for name in names]
    for class_names in (names, synsets, synonyms, [*names[:900], *["something else"] * 100]):
        assert imagenet.synsets_of(class_names) == synsets


def test_other_classes_have_no_synsets() -> None:
    names = imagenet.class_names_of(1000)
    for class_names in ((), names[:999], [f"class {i}" for i in range(1000)], sorted(names), names[::-1]):
        assert imagenet.synsets_of(class_names) == ()
