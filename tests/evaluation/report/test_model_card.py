"""The model card of an export: the facts of the run, and none that are not known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from ml_collections import ConfigDict

from datasets.types import Split
from evaluation.report.model_card import ExportedRun, model_card
from evaluation.report.scores_file import FOLDER, SCORES_FILE, write_scores
from evaluation.scores import full_report
from evaluation.trained_run import TrainedRun
from resnet import Classifier
from tests.weights import HAND_SHAPES, narrow_config, random_weights
from training.network import make_network
from workdir import settings
from workdir.summary import make_summaries

STEP = 9


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_network(narrow_config(), 3), random_weights(3), HAND_SHAPES)


def save_run(workdir: Path, accuracy: float, **fields: object) -> ConfigDict:
    """Writes the settings and the summary of a finished run, without its weights, and returns its config."""
    config = narrow_config()
    config.update(fields)
    settings.save(config, HAND_SHAPES, workdir)
    scores = [{"accuracy": accuracy, "loss": 0.25}]
    about = {"epochs": config.num_epochs, "steps": STEP, "prediction": settings.prediction(config)}
    splits = {"raw": {"test": scores}, "ema": {"test": scores}}
    (summary,) = make_summaries(splits, parameters=1234, device="a chip", about=about)
    (workdir / "summary.json").write_text(json.dumps(summary | {"seconds": 90.0, "images_per_second": 2.0}))
    return config


def save_scores(workdir: Path, config: ConfigDict, steps: dict[int, int]) -> None:
    """Writes the scores of a report on ten images, of which each seed gets one more right than the last."""
    labels = np.arange(10) % 3
    split = Split(np.zeros((10, 64, 64, 3), np.uint8), labels.astype(np.int32))
    runs, reports = [], {}
    for i, (seed, step) in enumerate(steps.items()):
        guesses = np.where(np.arange(10) < 7 + i, labels, (labels + 1) % 3)
        logits = np.eye(3)[guesses]
        reports[str(seed)] = full_report(logits, labels, HAND_SHAPES, np.arange(10) < 2)
        splits = {"train": split, "test": split}
        runs.append(
            TrainedRun(
                config, HAND_SHAPES, splits, split, None, None, step, "ema", batch_size=32, predict=None
            )
        )
    report = {"seeds": reports} if config.seeds else next(iter(reports.values()))
    write_scores(workdir / FOLDER / SCORES_FILE, runs, "test", report)


def header_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_of_a_run_has_its_scores_and_settings(classifier: Classifier, tmp_path: Path) -> None:
    config = save_run(tmp_path, 0.5, num_epochs=3, seed=5, init_from="hf://somebody/hands@v1")
    save_scores(tmp_path, config, {5: STEP})
    card = model_card(classifier, ExportedRun(tmp_path, STEP, "ema"), repository="a/signs", license="mit")
    assert header_of(card) == {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "license": "mit",
        "base_model": "somebody/hands",
        "tags": ["image-classification", "resnet", "jax"],
        "metrics": ["accuracy"],
    }
    for row in (
        "| data set | signs |",
        "| images of the split train | 10 |",
        "| epochs | 3 |",
        "| seed | 5 |",
        "| started from | hf://somebody/hands@v1 |",
        "| weights | the moving average, after step 9 |",
        "| device | a chip |",
        "| `config.model.width` | 8 |",
        "| accuracy | 0.7000 |",
        "| accuracy on images without a near duplicate in training | 0.6250 |",
        "| fist | 4 | 0.7500 | 0.7500 |",
    ):
        assert row in card.splitlines()
    assert "- 2 of the 10 test images nearly repeat a training image." in card
    assert re.search(r"expected calibration error \| 0\.\d{4} ", card)
    assert "not finished" not in card
    assert "licence" not in card
    assert 'pipeline("image-classification", model="a/signs")' in card


def test_scores_of_several_seeds_have_a_mean_and_a_deviation(classifier: Classifier, tmp_path: Path) -> None:
    group = save_run(tmp_path, 0.0, seeds=(4, 1))
    for seed, accuracy in ((4, 0.75), (1, 0.25)):
        save_run(tmp_path / f"seed_{seed}", accuracy, seed=seed)
    seed_run = ExportedRun(tmp_path / "seed_4", STEP, "ema")
    by_summaries = model_card(classifier, seed_run)
    assert "| accuracy | 0.7500 | 0.5000 ± 0.3536 |" in by_summaries.splitlines()
    assert "calibration" not in by_summaries
    save_scores(tmp_path, group, {4: STEP, 1: STEP})
    assert "| accuracy | 0.7000 | 0.7500 ± 0.0707 |" in model_card(classifier, seed_run).splitlines()


def test_scores_of_other_weights_are_not_shown(classifier: Classifier, tmp_path: Path) -> None:
    config = save_run(tmp_path, 0.5)
    save_scores(tmp_path, config, {0: STEP - 1})
    card = model_card(classifier, ExportedRun(tmp_path, STEP, "raw"))
    assert "| accuracy | 0.5000 |" in card.splitlines()
    assert "0.7000" not in card
    assert "have not been measured" in model_card(classifier, ExportedRun(tmp_path, STEP - 2, "ema"))


def test_the_card_of_an_unfinished_run_says_so(classifier: Classifier, tmp_path: Path) -> None:
    save_run(tmp_path, 0.5)
    (tmp_path / "summary.json").unlink()
    card = model_card(classifier, ExportedRun(tmp_path, STEP, "ema"))
    assert "**The training had not finished when these weights were exported.**" in card
    assert "have not been measured" in card
    assert "- No licence is stated." in card


def test_no_card_names_folders_of_this_machine(classifier: Classifier, tmp_path: Path) -> None:
    paths = {
        "init_from": "/home/me/secret/w.safetensors",
        "data.dir": "/home/me/photos",
        "data.name": "folder",
    }
    config = narrow_config()
    config.update_from_flattened_dict(paths)
    settings.save(config, HAND_SHAPES, tmp_path)
    card = model_card(classifier, ExportedRun(tmp_path, STEP, "ema"))
    assert "/home" not in card + model_card(classifier, "/home/me/secret/w.safetensors")
    assert "| data set | photos |" in card
    assert "| started from | w.safetensors |" in card


def test_the_card_of_a_file_says_only_what_is_known(classifier: Classifier) -> None:
    card = model_card(classifier, "folder/w.safetensors")
    assert "Its weights come from `w.safetensors`." in card
    assert "## Training" not in card
    assert "fist, palm, point" in card


def test_names_of_classes_do_not_break_the_card(classifier: Classifier) -> None:
    odd = Classifier(classifier.network, classifier.weights, ("a|b", "<script>", "c\nd"))
    assert "3 classes: a\\|b, &lt;script&gt;, c\\x0ad." in model_card(odd, "w")


def test_damaged_scores_are_told_and_left_out(
    classifier: Classifier, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_run(tmp_path, 0.5)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / SCORES_FILE).write_text('{"split": "test"}')
    assert "| accuracy | 0.5000 |" in model_card(classifier, ExportedRun(tmp_path, STEP, "ema"))
    assert "--mode=report makes it again" in capfd.readouterr().err
