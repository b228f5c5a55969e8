"""A trained network as a Python object: pictures in, labels and probabilities out."""

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

import settings
from datasets.imagenet import synsets_of
from errors import UserError
from resnet.checkpoint import Checkpoints, Which
from resnet.images import read_image, resize_and_crop, ten_crops
from resnet.network import Arranged, Network, Weights

# Compiling takes longer than running a few hundred images, so there is one size only. A larger one is
# hardly faster an image (ResNet-50 on 2 CPU cores: 31 ms at 8, 29 ms at 32), but is slow for one picture.
BATCH_SIZE = 8

Pool = Literal["avg", "max", "none"]
Picture = str | PathLike | Image.Image | np.ndarray


class Guess(NamedTuple):
    """A class that a picture may be of; `synset` is its id in WordNet if it is one of ImageNet's."""

    synset: str | None
    label: str
    probability: float


class Prediction(NamedTuple):
    """What a `Classifier` makes of one picture; `path` is None where it did not come from a file."""

    path: str | None
    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int = 5) -> list[Guess]:
        """The `count` most probable classes, best first; what Keras calls `decode_predictions`."""
        synsets = synsets_of(tuple(self.probabilities)) or [None] * len(self.probabilities)
        guesses = [Guess(s, *pair) for s, pair in zip(synsets, self.probabilities.items(), strict=True)]
        return sorted(guesses, key=lambda guess: -guess.probability)[:count]


class Classifier:
    """A trained network, its weights and the names of its classes.

    `Classifier.load("runs/signs").predict(["hand.jpg"])` is all that a user needs.
    """

    def __init__(
        self,
        network: Network,
        weights: Weights,
        class_names: tuple[str, ...],
        image_size: int,
        crop: float = 1.0,
    ) -> None:
        """Puts `weights` on the default device; `image_size` is the side of its images, in pixels.

        `crop` is the side of a picture's centre square that it looks at, as a share of the shorter side.
        """
        self.network = network
        self.weights = jax.device_put(weights)
        self.class_names = class_names
        self.image_size = image_size
        self.crop = crop
        self._feature_programs: dict[tuple[tuple[str, ...], Pool], Callable] = {}
        self._arrange = jax.jit(partial(network.arrange, batch_shape=(BATCH_SIZE, image_size, image_size, 3)))
        self._probabilities_of_batch = jax.jit(
            lambda weights, arranged, images: jax.nn.softmax(network.predict(weights, arranged, images))
        )

    @classmethod
    def load(cls, workdir: str | PathLike, checkpoint: Which = "best", raw: bool = False) -> "Classifier":
        """Loads the network that a run trained in `workdir`.

        `best` is the checkpoint of the best validation accuracy, the last one where the run had no
        validation. The weights are their moving average, unless the run had none or `raw` is set. A run of
        several seeds gives an `Ensemble`; each seed's folder in it gives the one.

        Raises:
            UserError: there is no trained run in `workdir`, or no whole checkpoint.
        """
        return join(load_trained(workdir, checkpoint, raw))

    def with_weights(self, weights: Weights) -> "Classifier":
        """The same with other `weights`; what is compiled for one serves both."""
        other = copy(self)
        other.weights = jax.device_put(weights)
        other.__dict__.pop("_arranged", None)
        return other

    def predict(self, pictures: Iterable[Picture]) -> list[Prediction]:
        """Classifies `pictures`: paths of image files, Pillow images or uint8 arrays [H, W, 3] of any size.

        Raises:
            UserError: one of them is not a readable image.
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
        """Reads, resizes and crops one picture to uint8 [image_size, image_size, 3].

        Raises:
            UserError: it is not a readable image.
        """
        return resize_and_crop(_read(picture), self.image_size, self.crop)

    def prepare_ten_crops(self, picture: Picture) -> np.ndarray:
        """Reads one picture and cuts it to uint8 [10, image_size, image_size, 3]: see `ten_crops`.

        Raises:
            UserError: it is not a readable image.
        """
        return ten_crops(_read(picture), self.image_size, self.crop)

    def predict_prepared(self, names: Sequence[str | None], images: Sequence[np.ndarray]) -> list[Prediction]:
        """Classifies what `prepare` returned; `names` become the predictions' `path`."""
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
        """The probability of every class, float32 [N, classes], for `images` uint8 [N, S, S, 3].

        S is `image_size`.

        Raises:
            UserError: the array has another shape or dtype, or the network has no head.
        """
        self.check_head()
        return self._in_batches(
            lambda weights, batch: self._probabilities_of_batch(weights, self._arranged, batch), images
        )

    def check_head(self) -> None:
        """Checks that the network knows classes.

        Raises:
            UserError: it has no head.
        """
        if not self.class_names:
            raise UserError("these weights have no head, so that they know no classes; use features instead")

    def features(self, images: np.ndarray, layer: str = "pooled", pool: Pool = "avg") -> np.ndarray:
        """What `layer` makes of `images` uint8 [N, S, S, 3], float32: [N, c], or [N, h, w, c] unpooled.

        `layer` is `stem`, a stage such as `stage3`, a block such as `stage3.block2`, or `pooled`, which the
        head sees; `pool` is the mean or the maximum over positions, or `none`.

        Raises:
            UserError: there is no such layer or pooling, or the array has another shape or dtype.
        """
        return self.features_of(images, [layer], pool)[layer]

    def features_of(
        self, images: np.ndarray, layers: Sequence[str], pool: Pool = "avg"
    ) -> dict[str, np.ndarray]:
        """`features` of several `layers` by their names, from one pass over `images`.

        Raises:
            UserError: as `features`.
        """
        for layer in layers:
            self.check_layer(layer, pool)
        return self._in_batches(self._features_of_batch(tuple(layers), pool), images)

    def check_layer(self, layer: str, pool: str) -> None:
        """Checks that `features` knows both.

        Raises:
            UserError: it does not.
        """
        if layer not in self.layers:
            raise UserError(f"layer {layer}: no such layer; expected one of {', '.join(self.layers)}")
        if pool not in get_args(Pool):
            raise UserError(f"pool {pool}: expected one of {', '.join(get_args(Pool))}")

    @cached_property
    def _arranged(self) -> Arranged:
        """The weights as predictions take them; who only wants weights or features need not wait for it."""
        return self._arrange(self.weights)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names that `features` takes, in the order in which they are computed."""
        return self.network.feature_names

    def _features_of_batch(self, layers: tuple[str, ...], pool: Pool) -> Callable:
        def pooled(x: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            if x.ndim == 2 or pool == "none":
                return x
            return x.mean((1, 2)) if pool == "avg" else x.max((1, 2))

        def features(weights: Weights, images: jax.Array) -> dict[str, jax.Array]:
            found = self.network.apply(weights, images, train=False)[1]
            return {layer: pooled(found[layer]) for layer in layers}

        if (layers, pool) not in self._feature_programs:
            self._feature_programs[layers, pool] = jax.jit(features)
        return self._feature_programs[layers, pool]

    def _in_batches(self, function: Callable[[Weights, np.ndarray], Any], images: np.ndarray) -> Any:
        """What `function` makes of `images`, batch by batch: an array, or arrays by name, of N rows."""
        images = np.asarray(images)
        expected = (self.image_size, self.image_size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise UserError(
                f"image array: found {images.dtype} {list(images.shape)}, expected uint8"
                f" [N, {self.image_size}, {self.image_size}, 3]; use predict for images of other sizes"
            )
        rows = []
        batch = np.zeros((BATCH_SIZE, *expected), np.uint8)
        for start in range(0, max(len(images), 1), BATCH_SIZE):  # Even answers to no image have a shape.
            chunk = images[start : start + BATCH_SIZE]
            batch[: len(chunk)] = chunk
            rows.append(jax.tree.map(np.asarray, function(self.weights, batch)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *rows)


class Ensemble(Classifier):
    """Classifiers of one network, as different seeds trained it, that answer together.

    A probability is the mean of the members', each of which is a `Classifier` of its own in `members`.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        """Joins `members`, alike in all but their weights."""
        self.__dict__.update({name: value for name, value in vars(members[0]).items() if name != "weights"})
        self.members = tuple(members)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The mean over the members, float32 [N, classes]; see `Classifier.probabilities`."""
        return np.mean([member.probabilities(images) for member in self.members], axis=0)

    def check_layer(self, layer: str, pool: str) -> None:
        """Refuses: features of several networks have nothing in common.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"layer {layer}: features are those of one network, and this run has {len(self.members)} seeds;"
            " name the folder of one in the workdir, such as seed_0"
        )


def _read(picture: Picture) -> Image.Image | np.ndarray:
    return read_image(picture) if isinstance(picture, str | PathLike) else picture


class Trained(NamedTuple):
    """A loaded classifier and where it came from: `kind` of weights is `raw` or `ema`."""

    classifier: Classifier
    step: int
    kind: str


def load_trained(workdir: str | PathLike, checkpoint: Which, raw: bool) -> list[Trained]:
    """What `Classifier.load` is made of: of each of a run's seeds its classifier, step and kind of weights.

    Raises:
        UserError: there is no trained run in `workdir`, or no whole checkpoint.
    """
    workdir = Path(workdir)
    config, class_names = settings.load(workdir)
    kind = "ema" if config.ema_decay and not raw else "raw"
    trained: list[Trained] = []
    for folder in settings.seed_workdirs(config, workdir):
        with Checkpoints(folder, read_only=True) as checkpoints:
            weights, step = checkpoints.restore_weights(checkpoint, ema=kind == "ema")
        if trained:
            classifier = trained[0].classifier.with_weights(weights)
        else:
            network = Network(config, len(class_names))
            classifier = Classifier(network, weights, class_names, config.data.image_size, config.data.crop)
        trained.append(Trained(classifier, step, kind))
    return trained


def join(trained: Sequence[Trained]) -> Classifier:
    """The classifier of a run of one seed, the `Ensemble` of those of several."""
    members = [each.classifier for each in trained]
    return members[0] if len(members) == 1 else Ensemble(members)
