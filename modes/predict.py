"""`--mode=predict`: labels picture files."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modes.flags import (
    CHECKPOINT,
    HANDS,
    JSON,
    RAW,
    WEIGHTS,
    Command,
    Flag,
    Mode,
    refuse_config,
    refuse_run_and_weights,
    refuse_weights_and_config,
)
from modes.tables import table
from resnet.errors import UserError
from resnet.wording import first_of

if TYPE_CHECKING:
    from resnet.classifier import Classifier, Guess, Prediction

NO_SIGN = Flag("no_sign", "Answer 'no sign' where the network sees nothing that it knows.", False)
NO_SIGN_LABEL = "no sign"
NAMES_SHOWN = 3
CLASSES_IN_COLUMNS = 10  # If there are more classes, the table has rows for the likeliest ones.


def check(command: Command) -> None:
    """Checks that there is one network: a run, a file of weights, or the one that comes with the project."""
    refuse_weights_and_config(command)
    refuse_config(command)
    refuse_run_and_weights(command)


def run(command: Command) -> int:
    """Prints a label for every picture; 2 if one could not be read, while the others are answered."""
    from evaluation.picture_files import UnreadableFiles, picture_files, read_in_batches
    from resnet.files import printable

    if command.workdir is None and not command["weights"]:
        print(
            f"note: {HANDS.name} answers, which knows the signs 0 to 5 of a hand; name another network by"
            " --workdir or --weights",
            file=sys.stderr,
        )
    classifier, _ = command.load_classifier()
    threshold = _fit_threshold(command, classifier) if command["no_sign"] else _noted_threshold(classifier)
    unreadable = UnreadableFiles()
    files = picture_files(command.arguments, unreadable)
    doubtful: list[str] = []

    def answer(prediction: "Prediction") -> "Prediction":
        if threshold is None or prediction.probability >= threshold:
            return prediction
        doubtful.append(prediction.path or "")
        return prediction._replace(label=NO_SIGN_LABEL) if command["no_sign"] else prediction

    predictions = (
        answer(prediction)
        for names, images in read_in_batches(files, classifier.prepare, unreadable)
        for prediction in classifier.predict_prepared(list(map(printable, names)), images)
    )
    _print_predictions(predictions, classifier.class_names, as_json=command["json"])
    if doubtful and not command["no_sign"]:
        print(f"note: {_describe_doubt(doubtful, threshold)}; --no_sign labels them so", file=sys.stderr)
    return unreadable.exit_code


def _print_predictions(
    predictions: Iterable["Prediction"], class_names: Sequence[str], *, as_json: bool
) -> None:
    many = len(class_names) > CLASSES_IN_COLUMNS
    if as_json:
        for prediction in predictions:
            top = {"top": [guess._asdict() for guess in prediction.top()]} if many else {}
            print(json.dumps(prediction._asdict() | top), flush=True)
    elif many:
        if guesses := [(prediction.path or "", _guesses(prediction)) for prediction in predictions]:
            print(format_guesses(guesses))
    elif rows := list(predictions):
        print(format_predictions(rows, class_names))


def _guesses(prediction: "Prediction") -> "list[Guess]":
    """Returns the most probable classes, or that no sign is seen with the probability of the best of them."""
    best = prediction.top()
    if prediction.label == NO_SIGN_LABEL:
        return [best[0]._replace(synset=None, label=NO_SIGN_LABEL)]
    return best


def _noted_threshold(classifier: "Classifier") -> float | None:
    """Returns the threshold for 'no sign' that an exported network brings with it, or None."""
    noted = getattr(classifier, "notes", {}).get("no_sign")
    return noted["threshold"] if noted else None


def _fit_threshold(command: Command, classifier: "Classifier") -> float:
    """Returns the threshold that comes with the network, or else fits one on the data of its run.

    Raises:
        UserError: there is neither, or the data of the run cannot be read.
    """
    from evaluation.no_sign import fit_on_splits
    from evaluation.trained_run import load_own_splits

    noted = _noted_threshold(classifier)
    if noted is not None:
        return noted
    if command.weights_file:
        raise UserError(
            f"--no_sign: {command.weights_file} says nothing of when no sign is seen; expected a run, or a"
            " network.onnx of --mode=export --format=web"
        )
    no_sign, description = fit_on_splits(classifier, load_own_splits(command.run_folder))
    print(f"note: {description}", file=sys.stderr)
    return no_sign.threshold


def _describe_doubt(paths: Sequence[str], threshold: float | None) -> str:
    return f"{first_of(paths, NAMES_SHOWN)}: perhaps no sign is seen, as no class reaches {threshold:.2f}"


def format_predictions(predictions: Sequence["Prediction"], class_names: Sequence[str]) -> str:
    """Returns a table with the label of every picture and the probability of every class."""
    rows = [
        (prediction.path or "", prediction.label, *(f"{p:.4f}" for p in prediction.probabilities.values()))
        for prediction in predictions
    ]
    return table(rows, ["path", "label", *class_names], "ll" + "r" * len(class_names))


def format_guesses(guesses: Sequence[tuple[str, Sequence["Guess"]]]) -> str:
    """Returns a table with the most probable classes of every path, for networks of many classes."""
    rows = [
        ("" if rank else path, guess.synset or "", guess.label, f"{guess.probability:.4f}")
        for path, top in guesses
        for rank, guess in enumerate(top)
    ]
    if not any(synset for _, synset, *_ in rows):
        return table([(path, *rest) for path, _, *rest in rows], ["path", "label", "probability"], "llr")
    return table(rows, ["path", "synset", "label", "probability"], "lllr")


MODE = Mode(
    help="Label picture files.",
    usage=(
        "--mode=predict hand.jpg",
        "--mode=predict --workdir=runs/signs hand.jpg photos/",
        "--mode=predict --weights=resnet50.safetensors cat.jpg",
        "--mode=predict --no_sign photos/",
    ),
    flags=(WEIGHTS, NO_SIGN, CHECKPOINT, RAW, JSON),
    check=check,
    run=run,
    takes="pictures",
    default_weights=HANDS,
)
