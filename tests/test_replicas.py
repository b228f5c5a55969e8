"""Several seeds in one run: the same as each alone, in turn or as one, killed or not; and their use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import replicas
import settings
from configs import default
from errors import UserError
from evaluate import ensemble_logits, load_runs, report_seeds
from resnet import Classifier
from resnet.checkpoint import Checkpoints, newest_step
from resnet.classifier import Ensemble
from train import train_and_evaluate

ROOT = Path(__file__).parent.parent
SMALL = {
    "num_epochs": 2,
    "batch_size": 16,
    "steps_per_call": 2,
    "model.depth": 16,
    "model.width": 4,
    # These compile in a fraction of the time.
    "model.convolution": "lax",
    "augment.rotation": 0.0,
    "augment.scale": 0.0,
    "augment.translation": 0.0,
    "checkpoint.every_epochs": 1.0,
    "data.val_fraction": 0.2,
}


def small_config(data_dir: Path, **fields: object):
    config = default.get_config()
    config.update_from_flattened_dict(SMALL | {"data.dir": str(data_dir)} | fields)
    return config


def weights_of(workdir: Path) -> list[np.ndarray]:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return jax.tree.leaves([checkpoints.restore_weights("last", ema)[0] for ema in (False, True)])


def assert_same_bits(a: Path, b: Path) -> None:
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a: Path, b: Path) -> None:
    one, other = (np.concatenate([np.ravel(x) for x in weights_of(w)]) for w in (a, b))
    # Adam divides by the root of tiny second moments: rounding grows, but stays far below one update.
    assert np.abs(one - other).max() < 1e-3
    assert np.linalg.norm(one - other) < 1e-3 * np.linalg.norm(one)


def metrics_of(workdir: Path, split: str) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path) -> Path:
    """The workdir of a run of the seeds 4 and 1, one after the other; tests leave it as it is."""
    workdir = tmp_path_factory.mktemp("in_turn") / "run"
    train_and_evaluate(small_config(shared_signs_dir, seeds=(4, 1), seeds_together="no"), workdir)
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path) -> Path:
    """The same, both as one program."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    train_and_evaluate(small_config(shared_signs_dir, seeds=(4, 1), seeds_together="yes"), workdir)
    return workdir


def test_in_turn_gives_the_bits_of_each_seed_alone(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    train_and_evaluate(small_config(shared_signs_dir, seed=1), tmp_path / "alone")
    assert_same_bits(tmp_path / "alone", in_turn / "seed_1")
    for name in ("config.json", "summary.json"):
        assert (in_turn / "seed_1" / name).exists()
    assert settings.load(in_turn / "seed_1")[0].seed == 1
    losses = [
        [line["loss"] for line in metrics_of(w, "train")] for w in (tmp_path / "alone", in_turn / "seed_1")
    ]
    assert losses[0] == losses[1]


def test_together_gives_what_each_seed_gives_in_turn(in_turn: Path, together: Path) -> None:
    for seed in (4, 1):
        assert_close(in_turn / f"seed_{seed}", together / f"seed_{seed}")
        for split in ("train", "val"):
            measured = [metrics_of(w / f"seed_{seed}", split) for w in (in_turn, together)]
            assert [line["step"] for line in measured[0]] == [line["step"] for line in measured[1]]
            losses = [[line["loss"] for line in lines] for lines in measured]
            np.testing.assert_allclose(*losses, rtol=1e-3)
    # Two seeds differ by more than the tolerance.
    with pytest.raises(AssertionError):
        assert_close(in_turn / "seed_4", together / "seed_1")


@pytest.mark.parametrize("how", ["in_turn", "together"])
def test_summary_holds_every_seed_with_mean_and_deviation(how: str, request: pytest.FixtureRequest) -> None:
    workdir = request.getfixturevalue(how)
    summary = json.loads((workdir / "summary.json").read_text())
    alone = [json.loads((workdir / f"seed_{seed}" / "summary.json").read_text()) for seed in (4, 1)]
    assert summary["seeds"] == {"4": alone[0], "1": alone[1]}
    losses = [each["ema"]["test"]["loss"] for each in alone]
    assert summary["mean"]["ema"]["test"]["loss"] == pytest.approx(np.mean(losses))
    assert summary["std"]["ema"]["test"]["loss"] == pytest.approx(np.std(losses, ddof=1))
    assert summary["steps"] == alone[0]["steps"] == 6
    assert summary["parameters"] == alone[0]["parameters"]


def test_more_seeds_join_and_finished_ones_stay_as_they_are(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(in_turn, tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in (workdir / "seed_4").rglob("*") if path.is_file()}
    # As one program where they stand at the same step: the new one alone.
    config = small_config(shared_signs_dir, seeds=(4, 1, 0), seeds_together="yes")
    assert replicas.group_seeds(config, workdir) == [[4, 1], [0]]
    summary = train_and_evaluate(config, workdir)
    assert list(summary["seeds"]) == ["4", "1", "0"]
    after = {path: path.stat().st_mtime_ns for path in (workdir / "seed_4").rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {settings.CONFIG_FILE}


def test_killed_between_two_seeds_checkpoints_and_started_again_ends_the_same(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    config = small_config(shared_signs_dir, seeds=(4, 1), seeds_together="yes")
    save, saved = replicas.Replica.save, []

    def save_or_die(self, step: int, *rest: object) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(step)
        save(self, step, *rest)

    monkeypatch.setattr(replicas.Replica, "save", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, workdir)
    monkeypatch.undo()
    assert [newest_step(workdir / name) for name in ("seed_4", "seed_1")] == [6, 3]
    assert not (workdir / "summary.json").exists()
    train_and_evaluate(config, workdir)
    for seed in (4, 1):
        assert_close(in_turn / f"seed_{seed}", workdir / f"seed_{seed}")


DEVICES_PROGRAM = """
import jax, numpy as np
from configs import default
from datasets.types import Split
from input_pipeline import by_replica, epoch_permutation, make_mesh, put_on_devices
from optimizer import learning_rate_schedule, make_optimizer
from replicas import stack_states, take
from resnet.network import Weights
from train import init_state, make_run_steps

class Linear:
    def init(self, seed):
        kernel = np.random.default_rng(seed).standard_normal((3, 6), np.float32)
        return Weights({"head": {"kernel": kernel}}, {})

    def apply(self, weights, images, train):
        return images.mean((1, 2)) / 255 @ weights.params["head"]["kernel"], {}, {}

def end_of(seeds):
    mesh = make_mesh(8, len(seeds))
    configs = [default.get_config() for _ in seeds]
    for config, seed in zip(configs, seeds):
        config.seed, config.batch_size, config.steps_per_call = seed, 8, 3
        config.augment.update({"rotation": 0.0, "scale": 0.0, "translation": 0.0})
    schedule = learning_rate_schedule(config, 3)
    optimizer = make_optimizer(config, schedule)
    run_steps = make_run_steps(Linear(), optimizer, schedule, config, mesh)
    state = stack_states([init_state(Linear(), optimizer, each) for each in configs], mesh)
    orders = np.stack([epoch_permutation(np.uint32(seed), 0, 24) for seed in seeds])
    numbers = np.array(seeds, np.uint32)
    if len(seeds) == 1:
        orders, numbers = orders[0], numbers[0]
    state, history = run_steps(
        state, split_on(mesh), jax.device_put(orders, by_replica(mesh)), numbers, 3
    )
    kernels = [np.asarray(take(state.ema.params, i, mesh)["head"]["kernel"]) for i in range(len(seeds))]
    return kernels, np.asarray(history["loss"]).reshape(len(seeds), -1), state

def split_on(mesh):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    return put_on_devices(Split(images, np.arange(24, dtype=np.int32) % 6), mesh)

assert dict(make_mesh(8, 2).shape) == {"replica": 2, "batch": 2}
assert dict(make_mesh(8, 3).shape) == {"replica": 1, "batch": 4}
kernels, losses, state = end_of([4, 1])
shards = state.params["head"]["kernel"].addressable_shards
assert {shard.data.shape for shard in shards} == {(1, 3, 6)}, "a device holds its own seed alone"
for i, seed in enumerate([4, 1]):
    (kernel,), loss, _ = end_of([seed])
    np.testing.assert_allclose(kernels[i], kernel, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(losses[i], loss[0], rtol=1e-5)
assert abs(losses[0] - losses[1]).max() > 1e-3
"""


def test_seeds_spread_over_devices_end_where_each_does_alone() -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    command = [sys.executable, "-c", DEVICES_PROGRAM]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("seeds", [(0, 0), (0.5,), (-1, 2), (True, 2), ("1",)])
def test_seeds_that_are_none_are_refused(seeds: tuple, shared_signs_dir: Path) -> None:
    with pytest.raises(UserError, match=r"config\.seeds=.* expected different whole numbers"):
        settings.check(small_config(shared_signs_dir, seeds=seeds))


def test_one_seed_and_several_do_not_share_a_workdir(in_turn: Path, shared_signs_dir: Path) -> None:
    with pytest.raises(UserError, match=r"other settings: .*seeds \(there \(4, 1\), here \(\)\)"):
        train_and_evaluate(small_config(shared_signs_dir), in_turn)


def test_looks_at_the_test_split_change_nothing_but_the_metrics(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    config = small_config(shared_signs_dir, seed=4)
    every = train_and_evaluate(config, tmp_path / "every", test="every_epoch")
    never = train_and_evaluate(config, tmp_path / "never", test="never")
    for workdir in (tmp_path / "every", tmp_path / "never"):
        assert_same_bits(workdir, in_turn / "seed_4")
    looks = metrics_of(tmp_path / "every", "test")
    assert [line["epoch"] for line in looks] == [1, 2]
    assert looks[-1]["accuracy"] == every["ema"]["test"]["accuracy"]
    assert metrics_of(in_turn / "seed_4", "test") == metrics_of(tmp_path / "never", "test") == []
    assert "test" not in never
    assert "test" not in never["ema"]
    assert never["ema"]["val"] == every["ema"]["val"]


def test_classifier_of_several_seeds_is_their_ensemble(in_turn: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    ensemble = Classifier.load(in_turn, "last")
    members = [Classifier.load(in_turn / f"seed_{seed}", "last") for seed in (4, 1)]
    of_each = [member.probabilities(images) for member in members]
    assert np.abs(of_each[0] - of_each[1]).max() > 1e-3
    np.testing.assert_allclose(ensemble.probabilities(images), np.mean(of_each, axis=0), rtol=1e-5)
    assert [p.label for p in ensemble.predict(list(images))] == [
        ensemble.class_names[i] for i in np.mean(of_each, axis=0).argmax(-1)
    ]
    assert isinstance(ensemble, Ensemble)
    assert not any(isinstance(member, Ensemble) for member in members)
    for own, member in zip(of_each, ensemble.members, strict=True):
        np.testing.assert_allclose(member.probabilities(images), own, rtol=1e-5)
    with pytest.raises(UserError, match="features are those of one network, and this run has 2 seeds"):
        ensemble.features(images)


def test_report_of_seeds_agrees_with_each_and_with_the_ensemble(in_turn: Path) -> None:
    runs = load_runs(in_turn, "last", raw=False)
    logits, report = report_seeds(runs, "test")
    images, labels = runs[0].splits["test"].images, runs[0].splits["test"].labels
    summary = json.loads((in_turn / "summary.json").read_text())
    assert report["mean"]["accuracy"] == pytest.approx(summary["mean"]["ema"]["test"]["accuracy"])
    assert report["std"]["loss"] == pytest.approx(summary["std"]["ema"]["test"]["loss"], rel=1e-3)
    expected = Classifier.load(in_turn, "last").probabilities(images)
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-4)
    assert report["ensemble"]["accuracy"] == np.mean(expected.argmax(-1) == labels)
    assert report["ensemble"]["loss"] <= report["mean"]["loss"]  # the logarithm is concave


def test_seeds_at_different_steps_have_no_mean(in_turn: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(in_turn, tmp_path / "copy"))
    runs = load_runs(copy, "last", raw=False)
    steps = [run.step for run in runs]
    newest = newest_step(copy / "seed_1")
    shutil.rmtree(copy / "seed_1" / "checkpoints" / str(newest))
    assert newest_step(copy / "seed_1") < newest
    for folder in (copy / "seed_4" / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) < newest:
            shutil.rmtree(folder)
    told = f"different steps \\(4: {steps[0]}, 1: {newest_step(copy / 'seed_1')}\\).*{copy / 'seed_4'}"
    with pytest.raises(UserError, match=told):
        load_runs(copy, "last", raw=False)
    # Each has a best step of its own, whatever it is measured on.
    hands = default.get_config().data
    hands.update(name="rendered", train_size=1, test_size=6, image_size=runs[0].config.data.image_size)
    for other_data in (None, hands):
        best = [run.step for run in load_runs(copy, "best", False, other_data)]
        assert best == [newest, newest_step(copy / "seed_1")]


def test_ensemble_averages_probabilities() -> None:
    shares = np.array([[[0.9, 0.1]], [[0.2, 0.8]], [[1.0, 0.0]]])
    with np.errstate(divide="ignore"):
        logits = np.log(shares) + np.array([5.0, -3.0, 0.0])[:, None, None]
    found = np.exp(ensemble_logits(list(logits)))
    np.testing.assert_allclose(found, [[0.7, 0.3]], rtol=1e-12)
