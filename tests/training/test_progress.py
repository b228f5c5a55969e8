"""What a training prints while it runs."""

import pytest

from training.progress import ProgressBar


def test_progress_is_plain_lines_away_from_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(100, 0) as progress:
        progress.update(25, 1.5, {"loss": 0.12345, "accuracy": 0.5}, rate=10.0, seconds_left=60.2)
        progress.note(1.5, "validation", {"loss": 1.0})
    assert capfd.readouterr().out.splitlines() == [
        "epoch 1.50 step 25/100 loss 0.1235 accuracy 0.5000 10.0 images/s left 01:00",
        "epoch 1.50 validation loss 1.0000",
    ]
