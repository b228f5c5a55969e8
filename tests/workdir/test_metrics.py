"""`metrics.jsonl` and TensorBoard's files: the same numbers in both, continued where a run was killed."""

import io
import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet.errors import UserError
from tests.command_line import run_program
from tests.damages import put_in_place
from workdir import metrics
from workdir.metrics import MetricsWriter, read_metrics


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def scalars(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(workdir / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def write_steps(workdir: Path, start: int, steps: range) -> None:
    with MetricsWriter(workdir, start) as writer:
        for step in steps:
            writer.write(step, step / 3, "train", {"loss": 1 / step, "accuracy": 0.5})


def test_lines_and_tensorboard_hold_the_same_numbers(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(2, 2 / 3, "train", {"loss": 1.25, "accuracy": 0.1})
        # Every line is on disk at once: a run that is killed keeps it.
        assert lines(tmp_path) == [
            {"step": 2, "epoch": 0.6667, "split": "train", "loss": 1.25, "accuracy": 0.1}
        ]
        writer.write(3, 1.0, "train", {"loss": 1.0, "accuracy": 0.2})
        writer.write(3, 1.0, "val", {"loss": 2.0, "accuracy": 0.3})
    assert lines(tmp_path)[1:] == [
        {"step": 3, "epoch": 1.0, "split": "train", "loss": 1.0, "accuracy": 0.2},
        {"step": 3, "epoch": 1.0, "split": "val", "loss": 2.0, "accuracy": 0.3},
    ]
    assert scalars(tmp_path) == {
        "train/loss": [(2, 1.25), (3, 1.0)],
        "train/accuracy": [(2, pytest.approx(0.1)), (3, pytest.approx(0.2))],
        "val/loss": [(3, 2.0)],
        "val/accuracy": [(3, pytest.approx(0.3))],
    }


def test_what_was_written_beyond_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 8))
    write_steps(tmp_path, 4, range(5, 7))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_reading_leaves_out_what_a_kill_cut_off(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    write_steps(tmp_path, 0, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 4, "epoch": 1.3')
    assert read_metrics(tmp_path) == lines_of_steps(tmp_path, 3)


GOOD = '{"step": 2, "epoch": 0.5, "split": "val", "loss": NaN}'


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"",
        b"[" * 100_000,
        b"9" * 5000,
        b"x" * 200_000,
        GOOD.replace("2", "-1").encode(),
        GOOD.replace("2", "2.5").encode(),
        GOOD.replace("0.5", "1e999").encode(),
        GOOD.replace("val", "$x^^$").encode(),
        GOOD.replace("NaN", "true").encode(),
        GOOD.replace("NaN", "1" + "0" * 400).encode(),
        GOOD.replace("loss", "step").encode(),
    ],
)
def test_damaged_lines_are_told_and_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], line: bytes
) -> None:
    write_steps(tmp_path, 0, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    whole = read_metrics(tmp_path)
    path.write_bytes(b"%s\n%s" % (line, path.read_bytes()))
    assert read_metrics(tmp_path) == whole
    (told,) = capfd.readouterr().err.splitlines()
    assert f"{path}: " in told
    assert "left out, first line 1" in told
    write_steps(tmp_path, 3, range(4, 5))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_file_that_has_grown_beyond_reason_is_read_in_part(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, 0.5, "train", {"loss": 1.0})
    whole = read_metrics(tmp_path)
    os.truncate(tmp_path / "metrics.jsonl", 2**40)
    assert read_metrics(tmp_path) == whole
    lines = capfd.readouterr().err.splitlines()
    assert any(
        "metrics.jsonl: has more than 268,435,456 bytes; what cannot be read" in line for line in lines
    )


def test_what_cannot_be_read_to_its_end_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_steps(tmp_path, 0, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    monkeypatch.setattr(metrics, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(UserError, match=f"^{path}: has more than .* nothing is changed; mend the file, or"):
        MetricsWriter(tmp_path, 3)
    monkeypatch.undo()

    class Torn(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            return super().readline(size) if self.tell() == 0 else os.read(-1, 1)

    monkeypatch.setattr(metrics, "open_file", lambda _: Torn(whole))
    with pytest.raises(UserError, match=rf"^{path}: cannot be read \(Bad file descriptor\); to go on would"):
        MetricsWriter(tmp_path, 3)
    assert len(read_metrics(tmp_path)) == 1  # A report shows what there is.
    assert path.read_bytes() == whole
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


@pytest.mark.parametrize("damage", ["pipe", "dangling link", "link loop"])
def test_something_else_in_place_of_the_metrics(tmp_path: Path, damage: str) -> None:
    put_in_place(tmp_path / "metrics.jsonl", damage)
    assert read_metrics(tmp_path) == []
    write_steps(tmp_path, 3, range(4, 5))
    assert [line["step"] for line in lines(tmp_path)] == [4]


def test_starting_over_keeps_nothing(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 4))
    write_steps(tmp_path, 0, range(1, 2))
    assert [line["step"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize("half", ['{"step": 3, "ep', '{"step": ', "{}", "3", "\0\0\0"])
def test_a_half_written_last_line_is_dropped(tmp_path: Path, half: str) -> None:
    write_steps(tmp_path, 0, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    write_steps(tmp_path, 2, range(3, 4))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 3))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    write_steps(tmp_path, 2, range(3, 4))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def lines_of_steps(workdir: Path, count: int) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in text[:count]]


def test_pytorch_is_not_imported_where_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('imported')")
    path = f"sys.path.insert(0, {str(tmp_path)!r})"
    program = f"import sys; {path}; import workdir.metrics; print('now'); import torch"
    done = run_program("-c", program)
    assert done.stdout.splitlines() == ["now", "imported"], done.stderr
