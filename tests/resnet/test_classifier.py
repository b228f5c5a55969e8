"""A trained network as a Python object: which weights it takes, and what it makes of pictures."""

import json
import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from resnet import Classifier
from resnet.checkpoint import Checkpoints
from resnet.classifier import BATCH_SIZE
from resnet.errors import UserError
from resnet.images import fit_square, read_image
from resnet.network import Weights
from resnet.preprocessing import Fit, Resample
from resnet.pretrained import read_pretrained
from tests.resnet.networks import make_network
from workdir import settings

ROOT = Path(__file__).parent.parent.parent
CLASSES = ("fist", "palm", "point")
SIZE = 48


NETWORK = make_network(len(CLASSES), image_size=SIZE, convolution="lax")


def make_config(ema_decay: float = 0.99) -> ConfigDict:
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "model.depth": 18,
            "model.width": 4,
            "model.convolution": "lax",
            "data.image_size": SIZE,
            "ema_decay": ema_decay,
        }
    )
    return config


def weights_of(seed: int) -> Weights:
    """Weights that tell classes apart: a fresh network's head is nearly zero."""
    weights = NETWORK.init(seed)
    weights.params["head"]["kernel"] = weights.params["head"]["kernel"] * 30
    return weights


def save_run(workdir: Path, accuracies: tuple[float | None, ...], ema: bool = True) -> None:
    """Checkpoint i has the raw weights of seed 2 i and, as their average, those of seed 2 i + 1."""
    config = make_config(0.99 if ema else 0.0)
    settings.save(config, CLASSES, workdir)
    with Checkpoints(workdir, keep=5) as checkpoints:
        for i, accuracy in enumerate(accuracies):
            raw, average = weights_of(2 * i), weights_of(2 * i + 1)
            state = {**raw._asdict(), "ema": average._asdict() if ema else None}
            checkpoints.save(i, state, {"seconds": 0.0}, accuracy)


def expected_probabilities(weights: Weights, images: np.ndarray) -> np.ndarray:
    """The softmax in NumPy of each image's own forward pass."""
    logits = np.concatenate([NETWORK.apply(weights, image[None], train=False)[0] for image in images])
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint 0 is the best and whose checkpoint 1 is the last."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    save_run(workdir, (0.9, 0.5))
    return workdir


@pytest.fixture(scope="module")
def classifier(workdir: Path) -> Classifier:
    return Classifier.load(workdir)


@pytest.fixture
def images() -> np.ndarray:
    """Noise, each image of its own colour: the network tells them apart."""
    rng = np.random.default_rng(0)
    shape = (BATCH_SIZE + 3, SIZE, SIZE, 3)
    return (rng.uniform(0, 255, shape) * rng.uniform(0, 1, (shape[0], 1, 1, 3))).astype(np.uint8)


@pytest.mark.parametrize(
    ("checkpoint", "raw", "seed"),
    [("best", True, 0), ("best", False, 1), ("last", True, 2), ("last", False, 3)],
)
def test_load_takes_the_weights_asked_for(workdir: Path, checkpoint: str, raw: bool, seed: int) -> None:
    loaded = Classifier.load(str(workdir), checkpoint, raw)
    assert loaded.class_names == CLASSES
    assert loaded.image_size == SIZE
    for found, saved in zip(jax.tree.leaves(loaded.weights), jax.tree.leaves(weights_of(seed)), strict=True):
        np.testing.assert_array_equal(found, saved)


def test_run_without_average_or_validation_gives_its_last_raw_weights(tmp_path: Path) -> None:
    save_run(tmp_path / "run", (None, None), ema=False)
    kernel = Classifier.load(tmp_path / "run").weights.params["head"]["kernel"]
    np.testing.assert_array_equal(kernel, weights_of(2).params["head"]["kernel"])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"class_names": ["fist"] * 3}, r"class_names: .* has non-unique elements"),
        ({"class_names": ["fist", "palm"]}, r"head\.bias is \[3\] there, but \[2\]"),
        ({"class_names": ["fist", "palm", 3]}, r"class_names\[2\]: 3 is not of type 'string'"),
        ({"class_names": "fist"}, r"class_names: 'fist' is not of type 'array'"),
        ({"model": {"depth": 34}}, r"block3\..* is missing there, but \["),
        ({"model": {"width": 8}}, r"is \[.*\] there, but \[.*\] by its fields"),
        ({"model": {"depth": "18"}}, r"config\.model\.depth='18': expected a whole number"),
        ({"model": {"blur": True}}, r"config\.model\.blur: no such field"),
        ({"data": {"gamma": 2}}, r"config\.data\.gamma: no such field"),
        ({"ema_decay": 0.0}, "ema_decay says that there is no moving average"),
    ],
)
def test_an_edited_description_is_refused_wherever_a_run_is_read(
    workdir: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    run = Path(shutil.copytree(workdir, tmp_path / "run"))
    stored = json.loads((run / "config.json").read_text())
    for name, value in changes.items():
        if isinstance(value, dict):
            stored["config"][name] |= value
        else:
            (stored if name in stored else stored["config"])[name] = value
    (run / "config.json").write_text(json.dumps(stored))
    for read in (Classifier.load, read_pretrained):
        with pytest.raises(UserError, match=f"{run}/config.json: .*{line}"):
            read(run)


@pytest.mark.parametrize("count", [1, BATCH_SIZE, BATCH_SIZE + 3])
def test_probabilities_do_not_depend_on_the_batch(
    classifier: Classifier, images: np.ndarray, count: int
) -> None:
    found = classifier.probabilities(images[:count])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected_probabilities(weights_of(1), images[:count]), atol=1e-5)
    assert count == 1 or np.ptp(found, axis=0).max() > 0.05, "the images are too much alike"


def test_no_images_give_no_probabilities(classifier: Classifier, images: np.ndarray) -> None:
    fresh = classifier.with_weights(classifier.weights)
    assert fresh.probabilities(images[:0]).shape == (0, 3)
    assert fresh.features(images[:0]).shape == (0, classifier.features(images).shape[1])
    assert fresh.predict([]) == []
    np.testing.assert_array_equal(fresh.probabilities(images), classifier.probabilities(images))


def test_compiles_once_for_every_number_of_images(classifier: Classifier, images: np.ndarray) -> None:
    for count in (1, 5, BATCH_SIZE + 1):
        classifier.probabilities(images[:count])
    assert classifier._probabilities_of_batch._cache_size() == 1


def test_predict_takes_files_pictures_and_arrays_of_any_size(classifier: Classifier, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    path = tmp_path / "hand.png"
    Image.fromarray(pixels).save(path)
    predictions = classifier.predict([path, str(path), Image.open(path), pixels])

    [expected] = expected_probabilities(weights_of(1), fit_square(read_image(path), SIZE)[None])
    for prediction in predictions:
        np.testing.assert_allclose(list(prediction.probabilities.values()), expected, atol=1e-5)
        assert tuple(prediction.probabilities) == CLASSES
        assert prediction.label == CLASSES[expected.argmax()]
        assert prediction.probability == prediction.probabilities[prediction.label]
    assert [prediction.path for prediction in predictions] == [str(path), str(path), None, None]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pictures_become_squares_as_the_network_takes_them(fit: Fit, tmp_path: Path) -> None:
    network = make_network(len(CLASSES), image_size=SIZE, crop=0.75, fit=fit)
    classifier = Classifier(network, weights_of(1), CLASSES)
    pixels = np.random.default_rng(1).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    path = tmp_path / "hand.png"
    Image.fromarray(pixels).save(path)
    for picture in (path, str(path), Image.open(path), pixels):
        np.testing.assert_array_equal(classifier.prepare(picture), fit_square(pixels, SIZE, 0.75, fit))
    if fit == "crop":
        assert classifier.prepare_ten_crops(path).shape == (10, SIZE, SIZE, 3)
    else:
        with pytest.raises(UserError, match=f"ten crops: .*fit={fit}"):
            classifier.prepare_ten_crops(path)


def test_predictions_come_in_the_order_given(classifier: Classifier, images: np.ndarray) -> None:
    found = [list(p.probabilities.values()) for p in classifier.predict(iter(images))]
    np.testing.assert_allclose(found, expected_probabilities(weights_of(1), images), atol=1e-5)


def test_unreadable_picture_is_named(classifier: Classifier, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    Image.new("RGB", (50, 50)).save(good)
    bad.write_text("no image")
    with pytest.raises(UserError, match=r"bad\.jpg: is not an image"):
        classifier.predict([good, bad])


def test_single_path_is_not_taken_for_a_list_of_letters(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match="list of pictures"):
        classifier.predict("hand.jpg")


@pytest.mark.parametrize("shape", [(2, SIZE, SIZE), (2, SIZE + 1, SIZE, 3), (SIZE, SIZE, 3)])
def test_arrays_of_other_shapes_are_refused(classifier: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expected uint8"):
        classifier.probabilities(np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="found float32"):
        classifier.probabilities(np.zeros((1, SIZE, SIZE, 3), np.float32))


def test_load_of_a_checkpoint_that_there_is_not(workdir: Path) -> None:
    with pytest.raises(UserError, match="checkpoint='newest': expected one of best, last"):
        Classifier.load(workdir, "newest")


def test_load_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained run here"):
        Classifier.load(tmp_path)
    settings.save(make_config(), CLASSES, tmp_path)
    with pytest.raises(UserError, match="no checkpoints"):
        Classifier.load(tmp_path)


def test_reading_images_needs_no_jax() -> None:
    code = "import sys, resnet.images; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Features


def test_features_are_those_of_the_network(classifier: Classifier, images: np.ndarray) -> None:
    _, expected, _ = NETWORK.apply(weights_of(1), images, train=False)
    assert set(classifier.layers) == expected.keys()
    for layer in ("stage3", "stage2.block1"):
        full = np.asarray(expected[layer])
        for pool, pooled in {"none": full, "avg": full.mean((1, 2)), "max": full.max((1, 2))}.items():
            found = classifier.features(images, layer, pool)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, pooled, atol=1e-4 * abs(full).max())
    np.testing.assert_allclose(classifier.features(images), expected["pooled"], rtol=1e-3, atol=1e-4)
    assert classifier.features(images[:0], "stage1", "none").shape == (0, 12, 12, 4)


def test_features_of_several_layers_are_those_of_each(classifier: Classifier, images: np.ndarray) -> None:
    layers = ("stage3", "stem", "pooled")
    found = classifier.features_of(images, layers)
    assert set(found) == set(layers)
    for layer in layers:
        np.testing.assert_allclose(found[layer], classifier.features(images, layer), rtol=1e-3, atol=1e-4)
    assert classifier.features_of(images[:0], layers)["stem"].shape == (0, 4)
    with pytest.raises(UserError, match="stage9: no such layer"):
        classifier.features_of(images, ["stem", "stage9"])


@pytest.mark.parametrize(
    ("layer", "pool", "message"),
    [("stage9", "avg", "layer stage9: no such layer; expected one of stem, stage1.block1"),
     ("stem", "sum", "pool sum: expected one of avg, max, none")],
)  # fmt: skip
def test_features_that_there_are_not(classifier: Classifier, layer: str, pool: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier.features(np.zeros((1, SIZE, SIZE, 3), np.uint8), layer, pool)


def test_answers_that_are_not_finite_are_refused(classifier: Classifier, images: np.ndarray) -> None:
    weights = weights_of(1)
    head = {**weights.params["head"], "kernel": np.full_like(weights.params["head"]["kernel"], 3e38)}
    overflowing = classifier.with_weights(Weights({**weights.params, "head": head}, weights.batch_stats))
    with pytest.raises(UserError, match=r"not finite \(inf or nan\): these weights overflow"):
        overflowing.probabilities(images)


def test_a_head_of_one_output_has_no_softmax(classifier: Classifier) -> None:
    single = copy(classifier)
    single.class_names = ("hand",)
    with pytest.raises(UserError, match="a head of one output, whose softmax is always 1"):
        single.predict([np.zeros((SIZE, SIZE, 3), np.uint8)])


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_pictures_are_resized_by_their_own_filter(resample: Resample, classifier: Classifier) -> None:
    other = copy(classifier)
    other.resample = resample
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    filter = Image.Resampling[resample.upper()]
    expected = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), filter))
    np.testing.assert_array_equal(other.prepare(picture), expected)


def test_images_that_are_loaded_when_they_are_sliced_are_loaded_by_the_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2 * BATCH_SIZE + 1, SIZE, SIZE, 3), np.uint8)

    class Sliced:
        dtype, ndim, shape = images.dtype, images.ndim, images.shape
        longest = 0

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, rows: slice) -> np.ndarray:
            self.longest = max(self.longest, len(images[rows]))
            return images[rows]

    classifier = Classifier(NETWORK, weights_of(0), CLASSES)
    sliced = Sliced()
    np.testing.assert_array_equal(classifier.probabilities(sliced), classifier.probabilities(images))
    assert sliced.longest == BATCH_SIZE
