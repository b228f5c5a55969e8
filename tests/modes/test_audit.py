"""`--mode=audit`: the data of a config, and those of a run."""

import json
from pathlib import Path

from tests.command_line import DEFAULT_CONFIG, Run, assert_succeeded


def test_audit_of_a_config_and_of_a_run(
    run: Run, workdir: Path, shared_signs_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "audit"
    result = run(
        "--mode=audit", DEFAULT_CONFIG, f"--config.data.dir={shared_signs_dir}", f"--workdir={folder}"
    )
    assert_succeeded(result)
    for part in ("Images of each class", "Nearest neighbour", "audit.json"):
        assert part in result.out
    audit = json.loads((folder / "audit.json").read_text())
    assert list(audit["classes"]) == ["train", "test"]
    audit_of_run = json.loads(run("--mode=audit", "--json", f"--workdir={workdir}").out)
    assert list(audit_of_run["classes"]) == ["train", "val", "test"]
    assert audit_of_run["nearest_neighbour"]["val"]["images"] == 12
