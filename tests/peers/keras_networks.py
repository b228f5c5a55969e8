"""Residual networks of Keras Applications, and the first Keras ResNet-50, as Keras runs and saves them."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np
from keras import layers
from keras.src.applications import resnet
from keras.src.legacy.saving import legacy_h5_format

STAGES_V1 = {
    "stem": "pool1_pool",
    **{f"stage{i}": f"conv{i + 1}_block{count}_out" for i, count in enumerate((3, 4, 6, 3), start=1)},
}
STAGES_OLD = {"stem": "pool1", "stage1": "out2c", "stage2": "out3d", "stage3": "out4f", "stage4": "out5c"}


class KerasPeer:
    """A Keras model with random weights and statistics."""

    def __init__(self, model: keras.Model, stages: dict[str, str], seed: int = 0) -> None:
        """`stages` maps our name of a feature to the layer whose output it is."""
        self.model = model
        model.layers[-1].activation = keras.activations.linear
        rng = np.random.default_rng(seed)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                size = layer.gamma.shape
                bounds = ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 2.0))
                layer.set_weights([rng.uniform(*bound, size) for bound in bounds])
            elif layer.weights:
                kernel, *bias = layer.get_weights()
                kernel = rng.normal(
                    0, (2 / np.prod(kernel.shape[:-2]) / kernel.shape[-1]) ** 0.5, kernel.shape
                )
                layer.set_weights([kernel, *(rng.normal(0, 0.3, b.shape) for b in bias)])
        outputs = {name: model.get_layer(layer).output for name, layer in stages.items()}
        self._all = keras.Model(model.input, {**outputs, "logits": model.output})

    def round_to_half(self) -> None:
        """Rounds all weights to values of float16, which compress better."""
        rounded = [w.astype(np.float16).astype(np.float32) for w in self.model.get_weights()]
        self.model.set_weights(rounded)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Logits and the stages' outputs for normalised `images` [N, H, W, 3]."""
        return {name: np.asarray(value) for name, value in self._all(images, training=False).items()}

    def save(self, path: Path) -> None:
        """Saves a model as `.keras` or `.hdf5`, weights as `.weights.h5` or, as Keras 1 and 2, `.h5`."""
        if path.suffix in (".keras", ".hdf5"):
            self.model.save(path)
        elif path.name.endswith(".weights.h5"):
            self.model.save_weights(path)
        else:
            with h5py.File(path, "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, self.model)


def applications_peer(name: str, classes: int = 1000) -> KerasPeer:
    """`keras.applications.<name>()`."""
    shape = (None, None, 3)
    base = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=shape)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(base.output)
    model = keras.Model(base.input, layers.Dense(classes, name="predictions")(x))
    return KerasPeer(model, STAGES_V1)


def narrow_peer(version: int, width: int, classes: int) -> KerasPeer:
    """Keras Applications' ResNet-50 or 50V2 with `width` channels in its first stage; the stem has 64."""
    stack = {1: resnet.stack_residual_blocks_v1, 2: resnet.stack_residual_blocks_v2}[version]

    def stages(x: keras.KerasTensor) -> keras.KerasTensor:
        for stage, blocks in enumerate((3, 4, 6, 3)):
            plain = stage == (0 if version == 1 else 3)
            x = stack(x, width * 2**stage, blocks, 1 if plain else 2, name=f"conv{stage + 2}")
        return x

    model = resnet.ResNet(
        stages, version == 2, True, weights=None, classes=classes, input_shape=(64, 64, 3), name="narrow"
    )
    return KerasPeer(model, STAGES_V1)


def old_peer(width: int, classes: int, side: int | None = None) -> KerasPeer:
    """The ResNet-50 of deep-learning-models, layer by layer, for inputs of `side` or any size."""

    def conv_norm(x: keras.KerasTensor, suffix: str, *conv: object, **options: object) -> keras.KerasTensor:
        x = layers.Conv2D(*conv, name=f"res{suffix}", **options)(x)
        return layers.BatchNormalization(name=f"bn{suffix}", epsilon=1e-3)(x)

    images = layers.Input((side, side, 3))
    x = layers.Conv2D(width, 7, strides=2, name="conv1")(layers.ZeroPadding2D(3)(images))
    x = layers.ReLU()(layers.BatchNormalization(name="bn_conv1", epsilon=1e-3)(x))
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for stage, blocks in enumerate(("abc", "abcd", "abcdef", "abc"), start=2):
        features = width * 2 ** (stage - 2)
        for block in blocks:
            stride = 2 if block == "a" and stage > 2 else 1
            branch = f"{stage}{block}_branch"
            y = layers.ReLU()(conv_norm(x, branch + "2a", features, 1, strides=stride))
            y = layers.ReLU()(conv_norm(y, branch + "2b", features, 3, padding="same"))
            y = conv_norm(y, branch + "2c", 4 * features, 1)
            if block == "a":
                x = conv_norm(x, branch + "1", 4 * features, 1, strides=stride)
            x = layers.ReLU(name=f"out{stage}{block}")(layers.Add()([y, x]))
    x = layers.GlobalAveragePooling2D()(x)
    return KerasPeer(keras.Model(images, layers.Dense(classes, name="fc1000")(x)), STAGES_OLD)
