"""A trained network as a Python object: pictures in, labels and probabilities out."""

import os
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from resnet.checkpoint import Checkpoints, Expected, Which, newest_step
from resnet.errors import UserError
from resnet.formats.onnx_model import FLOAT32, OnnxOptions
from resnet.imagenet import synsets_of
from resnet.images import fit_square, read_image, read_square, ten_crops
from resnet.network import Arranged, Network, Weights, check_image_size
from resnet.run import CONFIG_FILE, StoredRun, read_run, trained_folders

# There is one batch size, as compiling takes longer than running a few hundred images. A larger one is hardly
# faster (ResNet-50 on two CPU cores: 31 ms an image at 8, 29 ms at 32), but is slow for a single picture.
BATCH_SIZE = 8

Pool = Literal["avg", "max", "none"]
Picture = str | PathLike | Image.Image | np.ndarray


class Guess(NamedTuple):
    """A class with its probability; `synset` is its WordNet id if it is a class of ImageNet."""

    synset: str | None
    label: str
    probability: float


class Prediction(NamedTuple):
    """The answer of a `Classifier` about one picture; `path` is None if it did not come from a file."""

    path: str | None
    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int = 5) -> list[Guess]:
        """Returns the `count` most probable classes, best first, as `decode_predictions` of Keras does."""
        synsets = synsets_of(tuple(self.probabilities)) or [None] * len(self.probabilities)
        guesses = [Guess(s, *pair) for s, pair in zip(synsets, self.probabilities.items(), strict=True)]
        return sorted(guesses, key=lambda guess: -guess.probability)[:count]


class Classifier:
    """A trained network, its weights and the names of its classes.

    `Classifier.load("runs/signs").predict(["hand.jpg"])` is all that a user needs.
    """

    def __init__(self, network: Network, weights: Weights, class_names: tuple[str, ...]) -> None:
        """Puts `weights` on the default device. `class_names` are empty for a network without a head."""
        self.network = network
        self.weights = jax.device_put(weights)
        self.class_names = class_names
        self.image_size = network.preprocessing.image_size
        self.crop = network.preprocessing.crop
        self.fit = network.preprocessing.fit
        self.resample = network.preprocessing.resample
        self._feature_programs: dict[tuple[tuple[str, ...], str], Callable] = {}
        batch_shape = (BATCH_SIZE, self.image_size, self.image_size, 3)
        self._arrange = jax.jit(partial(network.arrange, batch_shape=batch_shape))
        self._probabilities_of_batch = jax.jit(
            lambda weights, arranged, images: jax.nn.softmax(network.predict(weights, arranged, images))
        )

    @classmethod
    def load(cls, workdir: str | PathLike, checkpoint: Which = "best", raw: bool = False) -> "Classifier":
        """Loads the network that a run trained in `workdir`, or an ONNX model that was exported.

        `best` is the checkpoint with the best validation accuracy, or the last checkpoint of a run without
        validation. The weights are their moving average, unless the run keeps none or `raw` is set. A run of
        several seeds gives an `Ensemble`; the folder of one of its seeds gives that seed alone.

        Raises:
            UserError: there is no trained run in `workdir`, no whole checkpoint, or no such `checkpoint`. Or
                its seeds stand at different steps, or `checkpoint` or `raw` is set for an ONNX model.
        """
        if Path(workdir).suffix == ".onnx" and not os.path.isdir(workdir):
            from resnet.onnx_classifier import OnnxClassifier

            if checkpoint != "best" or raw:
                raise UserError(f"{workdir}: has one set of weights; leave checkpoint and raw out")
            return OnnxClassifier(workdir)
        return combine(load_trained(workdir, checkpoint, raw))

    def with_weights(self, weights: Weights) -> "Classifier":
        """Returns a classifier with other `weights` that shares the compiled programs of this one."""
        other = copy(self)
        other.weights = jax.device_put(weights)
        other.__dict__.pop("_arranged", None)
        return other

    def predict(self, pictures: Iterable[Picture]) -> list[Prediction]:
        """Classifies `pictures`: paths of image files, Pillow images, or uint8 arrays [H, W, 3] of any size.

        Raises:
            UserError: a picture is not a readable image.
            TypeError: `pictures` is a single picture rather than a list.
        """
        if isinstance(pictures, Picture):
            raise TypeError("predict takes a list of pictures; for a single one, give [picture]")
        predictions, names, images = [], [], []
        for picture in pictures:
            names.append(str(picture) if isinstance(picture, str | PathLike) else None)
            images.append(self.prepare(picture))
            if len(images) == BATCH_SIZE:
                predictions += self.predict_prepared(names, images)
                names, images = [], []
        return predictions + self.predict_prepared(names, images)

    def prepare(self, picture: Picture) -> np.ndarray:
        """Reads one picture and makes it a square, uint8 [image_size, image_size, 3]; see `fit_square`.

        Raises:
            UserError: it is not a readable image.
        """
        if isinstance(picture, str | PathLike):
            return read_square(picture, self.image_size, self.crop, self.fit, resample=self.resample)
        return fit_square(picture, self.image_size, self.crop, self.fit, resample=self.resample)

    def prepare_ten_crops(self, picture: Picture) -> np.ndarray:
        """Reads one picture and cuts it to uint8 [10, image_size, image_size, 3], see `ten_crops`.

        Raises:
            UserError: it is not a readable image, or pictures are padded or stretched for this network.
        """
        if self.fit != "crop":
            raise UserError(
                f"ten crops: this network takes pictures with fit={self.fit}, and crops need fit=crop;"
                " use a single crop"
            )
        image = read_image(picture) if isinstance(picture, str | PathLike) else picture
        return ten_crops(image, self.image_size, self.crop, resample=self.resample)

    def predict_prepared(self, names: Sequence[str | None], images: Sequence[np.ndarray]) -> list[Prediction]:
        """Classifies `images` from `prepare`; `names` become the `path` of the predictions."""
        if not images:
            return []
        return [
            self._prediction(name, row)
            for name, row in zip(names, self.probabilities(np.stack(images)), strict=True)
        ]

    def _prediction(self, name: str | None, row: np.ndarray) -> Prediction:
        best = int(row.argmax())
        probabilities = dict(zip(self.class_names, map(float, row), strict=True))
        return Prediction(name, self.class_names[best], float(row[best]), probabilities)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of every class, float32 [N, classes].

        `images` are uint8 [N, S, S, 3], where S is `image_size`.

        Raises:
            UserError: the array has another shape or dtype, or the network has no head.
        """
        self.check_head()
        return self._in_batches(
            lambda weights, batch: self._probabilities_of_batch(weights, self._arranged, batch), images
        )

    def export(
        self, folder: str | PathLike, format: str = "safetensors", onnx: OnnxOptions = FLOAT32
    ) -> Path:
        """Writes the weights for another framework into `folder` and returns the path that it loads.

        `format` is one of `resnet.formats.EXPORT_FORMATS`; `onnx` says how to write that one.

        Raises:
            UserError: there is no such format, it has no such network, or `folder` cannot be written.
        """
        from resnet.formats.export import export

        return export(
            self.network, self.weights, self.class_names, format=format, folder=Path(folder), onnx=onnx
        )

    def check_head(self) -> None:
        """Checks that the network has a head.

        Raises:
            UserError: it has none.
        """
        if not self.class_names:
            raise UserError("these weights have no head and so no classes; use features instead")
        if len(self.class_names) == 1:
            raise UserError(
                "these weights have a head of one output, whose softmax is always 1; expected two classes or"
                " more; use features instead"
            )

    def features(self, images: np.ndarray, layer: str = "pooled", pool: Pool = "avg") -> np.ndarray:
        """Returns the output of `layer` for `images` uint8 [N, S, S, 3] as float32 [N, C].

        `layer` is `stem`, a stage such as `stage3`, a block such as `stage3.block2`, or `pooled`, the input
        of the head. `pool` is the mean (`avg`) or the maximum (`max`) over positions; `none` keeps the
        positions, [N, h, w, C].

        Raises:
            UserError: there is no such layer or pooling, or the array has another shape or dtype.
        """
        return self.features_of(images, [layer], pool)[layer]

    def features_of(
        self, images: np.ndarray, layers: Sequence[str], pool: Pool = "avg"
    ) -> dict[str, np.ndarray]:
        """Returns the `features` of several `layers` by name, from one pass over `images`.

        Raises:
            UserError: as `features`.
        """
        for layer in layers:
            self.check_layer(layer, pool)
        return self._in_batches(self._features_of_batch(tuple(layers), pool), images)

    def check_layer(self, layer: str, pool: str) -> None:
        """Checks that `features` can be asked for `layer` and `pool`.

        Raises:
            UserError: there is no such layer or pooling.
        """
        if layer not in self.layers:
            raise UserError(f"layer {layer}: no such layer; expected one of {', '.join(self.layers)}")
        if pool not in get_args(Pool):
            raise UserError(f"pool {pool}: expected one of {', '.join(get_args(Pool))}")

    @cached_property
    def _arranged(self) -> Arranged:
        """The weights prepared for predictions. Prepared late: features and exports do not need them."""
        return self._arrange(self.weights)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names that `features` takes, in the order in which they are computed."""
        return self.network.feature_names

    def _features_of_batch(self, layers: tuple[str, ...], pool: str) -> Callable:
        def pooled(x: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            if x.ndim == 2 or pool == "none":
                return x
            return x.mean((1, 2)) if pool == "avg" else x.max((1, 2))

        def features(weights: Weights, images: jax.Array) -> dict[str, jax.Array]:
            outputs = self.network.apply(weights, images, train=False)[1]
            return {layer: pooled(outputs[layer]) for layer in layers}

        if (layers, pool) not in self._feature_programs:
            self._feature_programs[layers, pool] = jax.jit(features)
        return self._feature_programs[layers, pool]

    def _in_batches(self, function: Callable[[Weights, np.ndarray], Any], images: np.ndarray) -> Any:
        """Applies `function` batch by batch; returns an array of N rows, or arrays of N rows by name."""
        images = self.checked_images(images)
        rows = []
        batch = np.zeros((BATCH_SIZE, self.image_size, self.image_size, 3), np.uint8)
        for start in range(0, max(len(images), 1), BATCH_SIZE):  # Even no image gives a result with a shape.
            chunk = images[start : start + BATCH_SIZE]
            batch[: len(chunk)] = chunk
            rows.append(jax.tree.map(np.asarray, function(self.weights, batch)))
        result = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *rows)
        check_finite(result)
        return result

    def checked_images(self, images: np.ndarray) -> np.ndarray:
        """Returns `images` as an array, once it is uint8 [N, S, S, 3].

        What has a dtype and a shape stays as it is, such as images that are loaded when they are sliced.

        Raises:
            UserError: the array has another shape or dtype.
        """
        images = images if hasattr(images, "dtype") else np.asarray(images)
        side = self.image_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise UserError(
                f"image array: found {images.dtype} {list(images.shape)}, expected uint8"
                f" [N, {side}, {side}, 3]; use predict for images of other sizes"
            )
        return images


def check_finite(answers: Any) -> None:
    """Checks the arrays of a network's answers.

    Raises:
        UserError: a number is infinite or not a number.
    """
    if not all(np.isfinite(array).all() for array in jax.tree.leaves(answers)):
        raise UserError(
            "the network's answer is not finite (inf or nan): these weights overflow in its arithmetic;"
            " expected trained weights, with mean and std of the pixels that they were trained with"
        )


class Ensemble(Classifier):
    """Classifiers of one network, trained from different seeds, that answer together.

    A probability is the mean of the probabilities of the `members`, and each member is a `Classifier`.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        """Combines `members`, which differ in nothing but their weights."""
        self.__dict__.update({name: value for name, value in vars(members[0]).items() if name != "weights"})
        self.members = tuple(members)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the mean over the members, float32 [N, classes]; see `Classifier.probabilities`."""
        return np.mean([member.probabilities(images) for member in self.members], axis=0)

    def check_layer(self, layer: str, pool: str) -> None:
        """Refuses, as features of different networks have nothing in common.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"layer {layer}: features are those of one network, and this run has {len(self.members)} seeds;"
            " name the folder of one in the workdir, such as seed_0"
        )

    def export(
        self, folder: str | PathLike, format: str = "safetensors", onnx: OnnxOptions = FLOAT32
    ) -> Path:
        """Refuses, as a file holds the weights of one network.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"export: writes the weights of one network, and this run has {len(self.members)} seeds;"
            " name the folder of one in the workdir, such as seed_0"
        )


class Trained(NamedTuple):
    """A loaded classifier with the step of its checkpoint; `kind` of weights is `raw` or `ema`."""

    classifier: Classifier
    step: int
    kind: str


def load_trained(workdir: str | PathLike, checkpoint: Which, raw: bool) -> list[Trained]:
    """Loads the classifier of every seed of the run in `workdir`, see `Classifier.load`.

    Raises:
        UserError: there is no trained run in `workdir`, no whole checkpoint, or no such `checkpoint`. Or its
            seeds stand at different steps.
    """
    workdir = Path(workdir)
    run = read_run(workdir)
    kind = "ema" if run.keeps_average and not raw else "raw"
    trained: list[Trained] = []
    network = network_of(run)
    expected = Expected(network.shapes(), run.keeps_average, workdir / CONFIG_FILE)
    folders = trained_folders(workdir, run.seeds)
    for folder in folders:
        with Checkpoints(folder, read_only=True) as checkpoints:
            weights, step = checkpoints.restore_weights(checkpoint, kind == "ema", expected)
        if trained:
            classifier = trained[0].classifier.with_weights(weights)
        else:
            classifier = Classifier(network, weights, run.class_names)
        trained.append(Trained(classifier, step, kind))
    # The last one of `trained` is older than the newest where that is damaged.
    reached = [seed.step for seed in trained] if checkpoint == "last" else [*map(newest_step, folders)]
    _check_same_step(workdir, folders, reached)
    return trained


def _check_same_step(workdir: Path, folders: Sequence[Path], steps: Sequence[int | None]) -> None:
    """Checks that the seeds are trained equally far. Each may have a best step of its own before that."""
    if len(set(steps)) > 1:
        found = ", ".join(f"{folder.name}: {step}" for folder, step in zip(folders, steps, strict=True))
        raise UserError(
            f"{workdir}: its seeds stand at different steps ({found}), and have no mean; train on to the end,"
            f" or name the folder of one, such as {folders[0]}"
        )


def network_of(run: StoredRun) -> Network:
    """Returns the network that the settings of `run` describe."""
    check_image_size(run.preprocessing.image_size, run.architecture)
    return Network(
        run.architecture,
        run.preprocessing,
        len(run.class_names),
        compute_dtype=run.compute_dtype,
        convolution=run.convolution,
    )


def combine(trained: Sequence[Trained]) -> Classifier:
    """Returns the classifier of a single seed, or the `Ensemble` of several."""
    members = [member.classifier for member in trained]
    return members[0] if len(members) == 1 else Ensemble(members)
