"""A program that uses the installed library and nothing else, for `test_wheel.py` and `make test-wheel`.

    python uses_the_wheel.py RUN WEIGHTS PICTURE FOLDER

It loads the run and the file of weights, predicts, takes features and exports; it prints a JSON object. It
belongs to no package and imports nothing of the project but `resnet`.
"""

import json
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

DISTRIBUTION = "resnet-signs"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_distributions(name: str) -> set[str]:
    """Returns the distribution `name` and all that it requires, without extras."""
    needed, pending = set(), [name]
    while pending:
        name = normalized(pending.pop())
        if name in needed:
            continue
        try:
            requirements = requires(name) or []
        except ImportError:  # It is for another platform, and not installed.
            continue
        needed.add(name)
        pending += [re.match(r"[\w.-]+", line)[0] for line in requirements if "extra ==" not in line]
    return needed


class OnlyWhatIsRequired:
    """Refuses to import packages that the library does not require, as if they were not installed."""

    def __init__(self) -> None:
        needed = needed_distributions(DISTRIBUTION)
        self.hidden = {
            package
            for package, distributions in packages_distributions().items()
            if not needed & {normalized(name) for name in distributions}
        }

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(run: str, weights: str, picture: str, folder: str) -> None:
    import numpy as np

    import resnet
    from resnet import Classifier, UserError, load_pretrained

    classifier = Classifier.load(run)
    [prediction] = classifier.predict([picture])
    images = np.stack([classifier.prepare(picture)])
    foreign = load_pretrained(weights, image_size=64, convolution="lax")
    try:
        classifier.predict([f"{picture}.missing"])
    except UserError as error:
        refusal = str(error)
    written = {format: str(classifier.export(folder, format)) for format in ("keras", "torchvision")}
    print(
        json.dumps(
            {
                "file": resnet.__file__,
                "version": resnet.__version__,
                "label": prediction.label,
                "probabilities": prediction.probabilities,
                "features": list(classifier.features(images, "stage3").shape),
                "foreign": foreign.predict([picture])[0].label,
                "refusal": refusal,
                "written": written,
                "modules": sorted(sys.modules),
            }
        )
    )


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    sys.meta_path.insert(0, OnlyWhatIsRequired())
    main(*sys.argv[1:])
