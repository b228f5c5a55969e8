"""`--mode=export`: writes the weights of a run for another framework."""

from modes.flags import CHECKPOINT, RAW, Command, Flag, Mode, require_run
from resnet.errors import UserError
from resnet.formats import EXPORT_FORMATS

FORMAT = Flag("format", "The format to write.", "safetensors", EXPORT_FORMATS)


def run(command: Command) -> int:
    """Writes the weights into `export/` of the workdir and describes the input that they expect."""
    from resnet.classifier import load_trained
    from resnet.formats.export import describe_input
    from workdir import settings

    workdir, format = command.run_folder, command["format"]
    config = command.settings()
    if config.seeds:
        raise UserError(
            f"--workdir={workdir}: holds {len(config.seeds)} seeds, and export writes the weights of one;"
            f" name one of them, such as --workdir={settings.seed_workdirs(config, workdir)[0]}"
        )
    (trained,) = load_trained(workdir, command["checkpoint"], command["raw"])
    classifier = trained.classifier
    print(f"written: {classifier.export(workdir / 'export', format)}")
    print(f"its input: {describe_input(classifier.network.preprocessing, format)}")
    return 0


MODE = Mode(
    help="Write the weights of a run for another framework.",
    usage=("--mode=export --workdir=runs/signs --format=keras",),
    flags=(FORMAT, CHECKPOINT, RAW),
    check=require_run,
    run=run,
)
