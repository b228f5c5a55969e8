"""The benchmarks parse the command line of main.py as main.py does it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.program import parse_command
from resnet.errors import UserError


def test_arguments_give_the_settings_and_the_workdir() -> None:
    command = parse_command(["--config=configs/signs.py", "--config.num_epochs=3", "--workdir=somewhere"])
    assert command.settings().num_epochs == 3
    assert command.run_folder == Path("somewhere")


def test_a_second_config_file_does_not_change_the_first() -> None:
    first = parse_command(["--config=configs/signs_keras.py"]).settings()
    second = parse_command(["--config=configs/rendered.py"]).settings()
    assert (first.optimizer.name, first.data.name) == ("adam", "signs")
    assert (second.optimizer.name, second.data.name) == ("adamw", "rendered")


def test_invalid_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"^config\.batch_size=0: "):
        parse_command(["--config=configs/signs.py", "--config.batch_size=0"]).settings()


def test_jax_is_not_imported_before_its_environment_is_set() -> None:
    code = (
        "import sys; from benchmarks import replicas, runs, startup_phases, streamed_training, transfer;"
        "from benchmarks.program import parse_command;"
        "parse_command(['--config=configs/signs.py']).settings();"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
