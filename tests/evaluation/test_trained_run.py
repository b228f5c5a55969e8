"""Trained runs read back: several seeds as one network, their means, and what has none."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from configs import default
from evaluation.trained_run import load_runs, report_seeds
from resnet import Classifier
from resnet.checkpoint import newest_step
from resnet.classifier import Ensemble
from resnet.errors import UserError
from tests.runs import summary_of


def test_classifier_of_several_seeds_is_their_ensemble(seeds_in_turn: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    ensemble = Classifier.load(seeds_in_turn, "last")
    members = [Classifier.load(seeds_in_turn / f"seed_{seed}", "last") for seed in (4, 1)]
    by_member = [member.probabilities(images) for member in members]
    assert np.abs(by_member[0] - by_member[1]).max() > 1e-3
    np.testing.assert_allclose(ensemble.probabilities(images), np.mean(by_member, axis=0), rtol=1e-5)
    assert [p.label for p in ensemble.predict(list(images))] == [
        ensemble.class_names[i] for i in np.mean(by_member, axis=0).argmax(-1)
    ]
    assert isinstance(ensemble, Ensemble)
    assert not any(isinstance(member, Ensemble) for member in members)
    for own, member in zip(by_member, ensemble.members, strict=True):
        np.testing.assert_allclose(member.probabilities(images), own, rtol=1e-5)
    with pytest.raises(UserError, match="features are those of one network, and this run has 2 seeds"):
        ensemble.features(images)


def test_report_of_seeds_agrees_with_each_and_with_the_ensemble(seeds_in_turn: Path) -> None:
    runs = load_runs(seeds_in_turn, "last", raw=False)
    logits, report = report_seeds(runs, "test")
    images, labels = runs[0].splits["test"].images, runs[0].splits["test"].labels
    summary = summary_of(seeds_in_turn)
    assert report["mean"]["accuracy"] == pytest.approx(summary["mean"]["ema"]["test"]["accuracy"])
    assert report["std"]["loss"] == pytest.approx(summary["std"]["ema"]["test"]["loss"], rel=1e-3)
    expected = Classifier.load(seeds_in_turn, "last").probabilities(images)
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-4)
    assert report["ensemble"]["accuracy"] == np.mean(expected.argmax(-1) == labels)
    assert report["ensemble"]["loss"] <= report["mean"]["loss"]  # the logarithm is concave


def test_seeds_at_different_steps_have_no_mean(seeds_in_turn: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(seeds_in_turn, tmp_path / "copy"))
    runs = load_runs(copy, "last", raw=False)
    steps = [run.step for run in runs]
    newest = newest_step(copy / "seed_1")
    shutil.rmtree(copy / "seed_1" / "checkpoints" / str(newest))
    assert newest_step(copy / "seed_1") < newest
    for folder in (copy / "seed_4" / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) < newest:
            shutil.rmtree(folder)
    found = f"seed_4: {steps[0]}, seed_1: {newest_step(copy / 'seed_1')}"
    message = f"different steps \\({found}\\).*{copy / 'seed_4'}"
    for checkpoint in ("last", "best"):
        for load in (load_runs, Classifier.load):
            with pytest.raises(UserError, match=message):
                load(copy, checkpoint, raw=False)


def test_best_steps_of_finished_seeds_may_differ(
    seeds_in_turn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"seed_4": 3, "seed_1": 6}

    def rank(checkpoint: Path) -> tuple[float, int]:
        step = int(checkpoint.name)
        return float(step == best[checkpoint.parent.parent.name]), step

    monkeypatch.setattr("resnet.checkpoint._rank", rank)
    hands = default.get_config().data  # without validation images
    hands.update(name="rendered", train_size=1, test_size=6)
    for other_data in (None, hands):
        assert [run.step for run in load_runs(seeds_in_turn, "best", False, other_data)] == [*best.values()]
