"""`--mode=report`: writes the report of a run anew."""

from modes.flags import CHECKPOINT, RAW, SPLIT, Command, Mode, require_run


def run(command: Command) -> int:
    """Writes `report/` with its `index.html` into the workdir."""
    from evaluation.report.page import write_report

    page = write_report(command.run_folder, command["split"], command["checkpoint"], command["raw"])
    print(f"written: {page}")
    return 0


MODE = Mode(
    help="Write the report of a run anew, report/index.html.",
    usage=("--mode=report --workdir=runs/signs [--split=val]",),
    flags=(SPLIT, CHECKPOINT, RAW),
    check=require_run,
    run=run,
)
