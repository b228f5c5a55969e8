"""A campaign notices what it is there for: each kind of fault, made on purpose, is reported."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from resnet import pretrained
from resnet.checkpoint import Checkpoints
from tests.campaigns import faults, kills, patience, workers
from tests.campaigns.__main__ import PARTS
from tests.campaigns.bombs import BOMBS
from tests.campaigns.fuzz import Fuzzer, broken_rules, expected_of
from tests.campaigns.meanings import MEANINGS
from tests.campaigns.readers import READERS
from tests.campaigns.seeds import write_pictures
from tests.campaigns.tally import Tally
from tests.campaigns.workers import Answer, Worker

OTHER_TAG = "pretrained_cfg.tag='other'"
PREDICTION = {"path": "/x/good.png", "label": "fist", "probabilities": {"fist": 0.75, "palm": 0.25}}


class HereWorker:
    """Runs main.py in this process."""

    def run(self, arguments: Sequence[str], seconds: float = 0.0) -> Answer:
        return Answer(**workers.answer(arguments))


class ScriptedWorker:
    """Gives answers that are written beforehand, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def run(self, arguments: Sequence[str], seconds: float = 0.0) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def fuzzer(tmp_path: Path) -> Fuzzer:
    """A fuzzer of one file of weights, which is none, and of timm's description."""
    weights = tmp_path / "seeds" / "weights"
    (weights / "safetensors").mkdir(parents=True)
    (weights / "safetensors" / "resnet.safetensors").write_bytes(b"weights" * 20)
    (weights / "timm").mkdir()
    (weights / "timm" / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"tag": "a"}, "architecture": "b"})
    )
    write_pictures(tmp_path / "seeds" / "pictures")
    (tmp_path / "fuzz").mkdir()
    return Fuzzer(tmp_path / "fuzz", tmp_path / "seeds", seed=0, tally=Tally())


def predicted(**changes: object) -> Answer:
    return Answer(0, json.dumps(PREDICTION | changes), "")


def test_reader_that_raises_a_raw_exception_is_reported_with_the_command_that_repeats_it(
    fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (failure,) = fuzzer.run("safetensors:7", HereWorker()) or [None]  # It refuses these weights in a line.
    assert failure is None
    assert fuzzer.tally.counts["exit 2"] == 1

    def read_container(path: Path, *, with_head: bool) -> None:
        raise RuntimeError("the reader is broken")

    monkeypatch.setattr(pretrained, "read_container", read_container)
    (failure,) = fuzzer.run("safetensors:7", HereWorker())
    assert (failure.kind, fuzzer.tally.counts["traceback"]) == ("traceback", 1)
    assert failure.seen == "safetensors:7: RuntimeError: the reader is broken"
    assert failure.command.startswith("python -m tests.campaigns.fuzz --case=safetensors:7 --seed=0 ")


def test_a_case_is_the_same_each_time(fuzzer: Fuzzer, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name / "copy").mkdir(parents=True)
        fuzzer.attack("safetensors:7", tmp_path / name)
        contents.append((tmp_path / name / "copy" / "resnet.safetensors").read_bytes())
    assert contents[0] == contents[1] != b"weights" * 20


@pytest.mark.parametrize(
    ("meaning", "answer", "seen"),
    [
        ("architecture='resnetblur18'", predicted(), "has no effect, and is not refused"),
        (
            "pretrained_cfg.tag='other'",
            predicted(label="palm", probabilities={"fist": 0.2, "palm": 0.8}),
            "palm",
        ),
        ("architecture='vit_tiny'", predicted(), "was taken, expected a line"),
        (
            "pretrained_cfg.tag='other'",
            predicted(probabilities={"fist": float("nan")}),
            "probabilities [nan]",
        ),
    ],
)
def test_wrong_answers_without_a_word_are_noticed(
    fuzzer: Fuzzer, meaning: str, answer: Answer, seen: str
) -> None:
    (number,) = (i for i, m in enumerate(MEANINGS) if (m.reader, m.name) == ("timm_config", meaning))
    (failure,) = fuzzer.run(f"meaning:{number}", ScriptedWorker(answer, predicted()))
    assert seen in failure.seen
    assert fuzzer.run(f"meaning:{number}", ScriptedWorker(Answer(2, "", "error: no"))) == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(2, "", "error: one line"), None),
        (Answer(0, "answer", ""), None),
        (Answer(1, "", "Traceback (most recent call last):\nTypeError: x"), "traceback"),
        (Answer(3, "", ""), "exit code"),
        (Answer(2, "", ""), "no line"),
        (Answer(2, "", "error: a\nerror: b"), "too many lines"),
        (Answer(None, "", "", ended="hang"), "hang"),
        (Answer(0, "answer", "", ended="memory"), "memory"),
    ],
)
def test_rule_for_every_command(answer: Answer, kind: str | None) -> None:
    assert [found for found, _ in broken_rules(answer, lines=1)] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"pretrained_cfg": {"mean": [1]}}, "any"),
        ({"pretrained_cfg": {"mean": [0], "tag": "b"}}, "same"),
        ({"pretrained_cfg": {"mean": [0.0]}}, "same"),
        ([], "any"),
    ],
)
def test_places_of_a_description_that_may_change_the_answer(changed: object, expected: str) -> None:
    before = json.dumps({"pretrained_cfg": {"mean": [0]}}).encode()
    assert expected_of(READERS["timm_config"], before, json.dumps(changed).encode()) == expected


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import time; time.sleep(60)", "hang"),
        ("all(x == 0 for x in iter(int, 1))", "hang"),
        ("a = bytearray(300 << 20); import time; time.sleep(60)", "memory"),
        ("import os; os.abort()", "crash"),
    ],
)
def test_worker_that_hangs_or_takes_too_much_is_ended_and_another_one_starts(
    code: str, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "IDLE", 1.0)
    script = f"print('ready', flush=True); input(); {code}"
    with Worker(os.environ, (sys.executable, "-c", script)) as worker:
        for _ in range(2):
            assert worker.run(["--help"], seconds=1.0, memory=200 << 20).ended == ended


def test_a_changed_bit_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    weights = np.arange(3, dtype=np.float32)
    for name, array in {"a": weights, "b": weights, "c": np.nextafter(weights, 9)}.items():
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(3, {"w": array, "step": np.int32(3)}, {}, None)
    assert kills.different_arrays(tmp_path / "a", tmp_path / "b") == []
    assert kills.different_arrays(tmp_path / "a", tmp_path / "c") == ["['w']"]


def test_rule_for_faults() -> None:
    def broken(name: str, code: int, err: str) -> list[str]:
        return [kind for kind, _ in faults.broken_rules(faults.FAULTS[name], code, err)]

    assert broken("full_disk", 2, "error: /x: no space left") == []
    assert broken("full_disk", 2, "") == ["wrong code"]
    assert broken("closed_stderr", 2, "") == ["wrong code"]
    assert broken("full_disk", 0, "Traceback (most recent call last):\nOSError: x") == ["traceback"]
    assert broken("full_disk", 2, "a\nb") == ["too many lines"]


def test_every_part_gives_cases_of_its_own_from_the_seed(fuzzer: Fuzzer) -> None:
    assert sum(share for _, share in PARTS.values()) == 1
    cases = fuzzer.cases()
    names = [next(cases) for _ in range(4 * len(MEANINGS) + 4 * len(BOMBS))]
    assert len(set(names)) == len(names)
