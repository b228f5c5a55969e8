"""`--mode=summary`: prints the layers of a network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modes.flags import Command, Mode, require_workdir
from modes.tables import table

if TYPE_CHECKING:
    from resnet.layer_table import Layer


def check(command: Command) -> None:
    """Checks that there is a config, or a workdir with a run."""
    if command.config is None:
        require_workdir(command)


def run(command: Command) -> int:
    """Prints the layers of the network of the config, or of the run."""
    import datasets
    from resnet.classifier import load_trained
    from resnet.layer_table import list_layers
    from training.network import adopt, have_checkpoints, make_network, read_initial_weights
    from workdir import settings

    config = command.settings()
    if command.config is None:
        workdir = command.run_folder
        _, class_names = settings.load(workdir)
        if have_checkpoints(config, workdir):
            for folder in settings.seed_workdirs(config, workdir):
                # Raises an error if the weights do not fit the settings.
                load_trained(folder, "last", raw=True)
    else:
        class_names = datasets.class_names(config.data)
        # A run has long adopted what was in its own.
        if (pretrained := read_initial_weights(config)) is not None:
            config = adopt(config, pretrained)
    print(format_layers(list_layers(make_network(config, len(class_names)))))
    return 0


def format_layers(layers: Sequence["Layer"]) -> str:
    """Returns a table of `layers`, with the totals in the last row."""
    rows = [
        (
            layer.name,
            " x ".join(map(str, ("N", *layer.output_shape))),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
        )
        for layer in layers
    ]
    parameters = sum(layer.parameters for layer in layers)
    multiply_adds = sum(layer.multiply_adds for layer in layers)
    rows.append(("total", "", f"{parameters:,}", f"{multiply_adds:,}"))
    return table(rows, ["layer", "output shape", "parameters", "multiply-adds"], "llrr")


MODE = Mode(
    help="Print the layers of a network with their shapes, parameters and multiply-adds.",
    usage=("--mode=summary --config=configs/signs.py", "--mode=summary --workdir=runs/signs"),
    flags=(),
    check=check,
    run=run,
)
