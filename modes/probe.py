"""`--mode=probe`: measures how well the features of each stage separate the classes."""

from typing import TYPE_CHECKING, Any, NamedTuple

from tabulate import tabulate

from modes.flags import CHECKPOINT, RAW, Command, Mode, locate_weights, require_run_or_weights
from resnet.errors import UserError

if TYPE_CHECKING:
    from datasets.types import Split
    from resnet.classifier import Classifier


class Subject(NamedTuple):
    """What is probed: a classifier, the data to probe it with, and what identifies it in the results."""

    classifier: "Classifier"
    splits: dict[str, "Split"]
    source: dict[str, Any]


def run(command: Command) -> int:
    """Measures k-NN and a linear probe on the features of each stage; writes `probe.json` and a plot.

    Without a config, the network and the data are those of the run in the workdir. With a config, the network
    is that of `config.init_from`, and the data are those of the config.
    """
    from evaluation.probe import layers_of, probe_layers
    from evaluation.report import figures
    from resnet.files import write_json, write_result

    workdir = command.run_folder
    subject = _subject_of_run(command) if command.config is None else _subject_of_config(command)
    layers = layers_of(subject.classifier.network.architecture)
    result = probe_layers(subject.classifier, layers, subject.splits, own_head=command.config is None)
    write_json(workdir / "probe.json", subject.source | result)
    write_result(workdir / "probe.png", figures.encode_figure(figures.probe(result)))
    print(format_probe(result))
    print(f"\nwritten: {workdir / 'probe.json'} and .png")
    return 0


def _subject_of_run(command: Command) -> Subject:
    from evaluation.trained_run import load_runs
    from resnet.classifier import Classifier
    from workdir import settings

    workdir = command.run_folder
    run, *others = load_runs(workdir, command["checkpoint"], command["raw"])
    if others:
        raise UserError(
            f"--workdir={workdir}: holds {1 + len(others)} seeds, and features are those of one; name the"
            f" folder of one, such as --workdir={settings.seed_workdirs(run.config, workdir)[0]}"
        )
    classifier = Classifier(run.network, run.weights, run.class_names)
    return Subject(classifier, run.splits, {"step": run.step, "weights": run.kind})


def _subject_of_config(command: Command) -> Subject:
    import datasets
    from resnet.classifier import Classifier
    from resnet.pretrained import read_pretrained
    from training.network import adopt, initial_weights, make_network

    config = command.settings()
    if not config.init_from:
        raise UserError(
            "config.init_from='': with --config, --mode=probe takes the network from there; expected a file"
            " of weights or the workdir of a run, or no --config for the run in --workdir"
        )
    path, source = locate_weights(config.init_from)
    pretrained = read_pretrained(path, with_head=config.init_head != "replace")
    config = adopt(config, pretrained)
    dataset = datasets.load(config.data)
    splits = datasets.splits_by_name(dataset, config.data)
    network = make_network(config, len(dataset.class_names))
    weights = initial_weights(network, pretrained, init_head=config.init_head, seed=config.seed)
    return Subject(Classifier(network, weights, dataset.class_names), splits, {"weights": source})


def format_probe(result: dict[str, Any]) -> str:
    """Returns the table of the result of `probe_layers`."""
    rows = [
        (row["layer"], row["channels"], f"{row['knn']:.4f}", f"{row['linear']:.4f}", f"{row['strength']:g}")
        for row in result["layers"]
    ]
    headers = ["layer", "channels", f"{result['neighbours']}-NN", "linear probe", "its L2"]
    table = tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * 4])
    images = result["images"]
    measured = f"{images['test']} {result['measured_on']} images"
    lines = [f"accuracy on {measured}, from features of {images['train']} training images"]
    if "network" in result:
        lines.append(f"the network's own head: {result['network']:.4f}")
    return "\n".join([*lines, "", table])


MODE = Mode(
    help="Measure k-NN and a linear probe on the features of each stage.",
    usage=(
        "--mode=probe --workdir=runs/signs",
        "--mode=probe --config=configs/finetune.py --config.init_from=resnet50.h5 --workdir=runs/probe",
    ),
    flags=(CHECKPOINT, RAW),
    check=require_run_or_weights,
    run=run,
)
