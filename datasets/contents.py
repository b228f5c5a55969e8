"""What a data set holds, as text: a line for each image."""

from datasets.types import Dataset, Split
from resnet.files import printable

DIGITS = 12  # of a digest in the table


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


def training_images(table: str) -> dict[str, set[str]]:
    """Returns the digests of the training images of an `image_table`, by their files. Each has `DIGITS`."""
    digests: dict[str, set[str]] = {}
    for line in table.split("\n"):
        if line.startswith("train\t") and line.count("\t") == 3:
            _, _, file, digest = line.split("\t")
            digests.setdefault(file, set()).add(digest)
    return digests


def _lines(name: str, split: Split, class_names: tuple[str, ...]) -> list[str]:
    files = [f"{name} {i}" for i in range(len(split.labels))] if split.files is None else split.files
    fields = zip(split.labels, files, split.pixel_digests(), strict=True)
    return [
        f"{name}\t{printable(class_names[label])}\t{printable(file)}\t{digest[:DIGITS]}"
        for label, file, digest in fields
    ]
