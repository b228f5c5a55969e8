"""`--mode=report`: the report of a run, written anew."""

import json
from pathlib import Path

from PIL import Image

from evaluation.report.scores_file import read_scores
from resnet import Classifier
from tests.command_line import DEFAULT_CONFIG, SHORT_TRAINING, Run, assert_refused, assert_succeeded, flags_of
from tests.runs import summary_of


def test_report_anew_of_another_split(run: Run, workdir: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "report" / "corruptions.png").write_bytes(b"")
    summary = summary_of(copy)
    # The summary of an earlier end, and a damaged one beside damaged metrics.
    earlier, damaged = json.dumps({**summary, "steps": summary["steps"] - 1}), "not yet"
    for content, files_told in ((earlier, []), (damaged, ["metrics.jsonl", "summary.json"])):
        (copy / "summary.json").write_text(content)
        if content == damaged:
            (copy / "metrics.jsonl").write_bytes(b"\xff\n" + (copy / "metrics.jsonl").read_bytes())
        result = run("--mode=report", "--split=val", f"--workdir={copy}")
        assert result[:2] == (0, f"written: {copy / 'report' / 'index.html'}\n")
        told = zip(result.err.splitlines(), files_told, strict=True)
        assert all(line.startswith(f"warning: {copy / name}: ") for line, name in told)
        assert "images per second" not in (copy / "report" / "index.html").read_text()
    assert not (copy / "report" / "corruptions.png").exists()
    assert "val split" in (copy / "report" / "index.html").read_text()
    scores = read_scores(copy / "report" / "scores.json")
    assert (scores["split"], scores["split_sizes"]) == ("val", {"train": 48, "val": 12, "test": 12})
    assert scores["seeds"]["0"]["step"] == summary["steps"]
    assert_refused(run("--mode=report", f"--workdir={tmp_path / 'no'}"), "no trained run here")
    assert_refused(run("--mode=report", DEFAULT_CONFIG, f"--workdir={copy}"), "leave out --config")


def test_report_of_a_network_of_three_stages_trained_on_signs_in_another_size(
    run: Run, tmp_path: Path, shared_signs_dir: Path
) -> None:
    flags = [*SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}", f"--workdir={tmp_path}"]
    fields = {"num_epochs": 1, "model.depth": 16, "data.image_size": 32}
    result = run(*flags, *flags_of(fields))
    assert_succeeded(result)
    assert Classifier.load(tmp_path).image_size == 32
    assert "Grad-CAM" in (tmp_path / "report" / "index.html").read_text()


def test_report_shows_corruptions_of_the_same_weights_alone(run: Run, workdir: Path, copy: Path) -> None:
    picture = copy / "report" / "corruptions.png"
    assert run("--mode=eval", "--corruptions=standard", f"--workdir={copy}").code == 0
    assert run("--mode=report", f"--workdir={copy}").code == 0
    assert Image.open(picture).height > 400
    assert run("--mode=report", "--raw", f"--workdir={copy}").code == 0
    assert not picture.exists()
