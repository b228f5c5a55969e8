"""`--mode=summary`: the layers of a network, by its config and by its run."""

from pathlib import Path

from tests.command_line import SHORT_TRAINING, Run
from tests.runs import summary_of


def test_summary_of_a_config_and_of_a_run(run: Run, workdir: Path, tmp_path: Path) -> None:
    by_config = run("--mode=summary", *SHORT_TRAINING)
    by_workdir = run("--mode=summary", f"--workdir={workdir}")
    assert by_config == by_workdir
    assert by_config.code == 0
    parameters = summary_of(workdir)["parameters"]
    assert by_config.out.splitlines()[-1].split()[:2] == ["total", f"{parameters:,}"]
