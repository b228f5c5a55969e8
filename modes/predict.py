"""`--mode=predict`: labels picture files."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modes.flags import (
    CHECKPOINT,
    JSON,
    RAW,
    WEIGHTS,
    Command,
    Mode,
    refuse_config,
    refuse_run_beside_weights,
    refuse_weights_and_config,
    require_workdir,
)
from modes.tables import table
from resnet.errors import UserError

if TYPE_CHECKING:
    from resnet.classifier import Guess, Prediction

CLASSES_IN_COLUMNS = 10  # If there are more classes, the table has rows for the likeliest ones.


def check(command: Command) -> None:
    """Checks that there is either a run or a file of weights."""
    refuse_weights_and_config(command)
    refuse_config(command)
    if not command["weights"]:
        require_workdir(command)
        return
    if command.workdir is not None:
        raise UserError("--weights and --workdir: expected one, the file or the run to predict with")
    refuse_run_beside_weights(command)


def run(command: Command) -> int:
    """Prints a label for every picture; 2 if one could not be read, while the others are answered."""
    from evaluation.picture_files import UnreadableFiles, picture_files, read_in_batches
    from resnet.files import printable

    classifier, _ = command.load_classifier()
    unreadable = UnreadableFiles()
    files = picture_files(command.arguments, unreadable)
    predictions = (
        prediction
        for names, images in read_in_batches(files, classifier.prepare, unreadable)
        for prediction in classifier.predict_prepared(list(map(printable, names)), images)
    )
    many = len(classifier.class_names) > CLASSES_IN_COLUMNS
    if command["json"]:
        for prediction in predictions:
            top = {"top": [guess._asdict() for guess in prediction.top()]} if many else {}
            print(json.dumps(prediction._asdict() | top), flush=True)
    elif many:
        if guesses := [(prediction.path or "", prediction.top()) for prediction in predictions]:
            print(format_guesses(guesses))
    elif rows := list(predictions):
        print(format_predictions(rows, classifier.class_names))
    return unreadable.exit_code


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
        "--mode=predict --workdir=runs/signs hand.jpg photos/",
        "--mode=predict --weights=resnet50.safetensors cat.jpg",
    ),
    flags=(WEIGHTS, CHECKPOINT, RAW, JSON),
    check=check,
    run=run,
    takes="pictures",
)
