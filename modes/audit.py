"""`--mode=audit`: looks for duplicates, leaks and conflicting labels in a data set."""

import json
from typing import Any

from modes.flags import JSON, Command, Mode, require_workdir
from modes.tables import table

CONFLICTS_PRINTED = 20  # pairs of files; `audit.json` has more


def run(command: Command) -> int:
    """Prints the audit of the data; writes `audit.json` and a picture of close pairs into the workdir."""
    import datasets
    from datasets.audit import audit
    from evaluation.report.pictures import draw_pairs, write_picture
    from resnet.files import write_json

    workdir = command.run_folder
    config = command.settings().data
    dataset = datasets.load(config)
    splits = datasets.splits_by_name(dataset, config)
    result = audit(splits, dataset.class_names) | {"unreadable": dataset.unreadable}
    write_json(workdir / "audit.json", result)
    if picture := draw_pairs(splits, result["pairs"]):
        write_picture(picture, workdir / "audit_pairs.png")
    else:
        (workdir / "audit_pairs.png").unlink(missing_ok=True)
    if command["json"]:
        print(json.dumps(result))
        return 0
    print(format_audit(result))
    print(f"\nwritten: {workdir / 'audit.json'}" + (" and audit_pairs.png" if picture else ""))
    return 0


def format_audit(audit: dict[str, Any]) -> str:
    """Returns the tables of the result of `datasets.audit.audit`, and the files that are unreadable."""
    counts = audit["classes"]
    classes = [
        [name, *(str(counts[split][name]) for split in counts)] for name in next(iter(counts.values()))
    ]
    close = []
    for entry in audit["near_duplicates"]:
        for threshold, count in entry["within"].items():
            numbers = (str(count[name]) for name in ("pairs", "images", "conflicts"))
            close.append([" and ".join(dict.fromkeys(entry["splits"])), threshold, *numbers])
    neighbour = []
    for split, scores in audit["nearest_neighbour"].items():
        for kind, part in (("all", scores), ("without a near duplicate", scores["without_twins"])):
            accuracy = "-" if part["accuracy"] is None else f"{part['accuracy']:.4f}"
            neighbour.append([split, kind, str(part["images"]), accuracy])
    conflicts = [
        [*pair["files"], f"{pair['distance']:.1f}"]
        for pair in audit["pairs"]
        if pair["conflict"] and "files" in pair
    ][:CONFLICTS_PRINTED]
    lists = []
    if conflicts:
        title = "Near duplicates of different classes, the closest of those counted above"
        lists.append(f"{title}\n" + table(conflicts, ["", "", "apart"], "llr"))
    if audit.get("unreadable", ()):
        lists.append("Files that cannot be read\n" + "\n".join(audit.get("unreadable", ())))
    return "\n\n".join(
        [
            "Images of each class\n" + table(classes, ["class", *counts], "l" + "r" * len(counts)),
            "Near duplicates: grey levels RMS apart at most, pairs, images of the second split in them,"
            " pairs of different labels\n"
            + table(close, ["splits", "within", "pairs", "images", "conflicts"], "lrrrr"),
            "Nearest neighbour on raw pixels: the accuracy that a network must beat\n"
            + table(neighbour, ["split", "images", "number", "accuracy"], "llrr"),
            *lists,
        ]
    )


MODE = Mode(
    help="Look for duplicates, leaks and conflicting labels in a data set.",
    usage=("--mode=audit --config=configs/signs.py --workdir=runs/audit",),
    flags=(JSON,),
    check=require_workdir,
    run=run,
)
