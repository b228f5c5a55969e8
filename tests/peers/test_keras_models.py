"""Models that Keras wrote, with layers before, after and around a ResNet: its answer, ours, or the line."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import jax
import keras
import numpy as np
import pytest
from keras import layers, ops

from resnet.errors import UserError
from resnet.formats.keras_ops import INACTIVE
from resnet.network import Network
from resnet.pretrained import Pretrained, read_pretrained
from tests.peers import keras_networks

SIDE = 64
CLASSES = 5
Variant = Callable[[], keras.Model]


@cache
def pictures() -> np.ndarray:
    """Four pictures, each of its own colour, of values 0 to 255."""
    rng = np.random.default_rng(0)
    return (rng.uniform(0, 255, (4, SIDE, SIDE, 3)) * rng.uniform(0, 1, (4, 1, 1, 3))).astype(np.uint8)


def peer(version: int = 1) -> keras.Model:
    """A narrow ResNet-50 with random weights and a head of five classes."""
    keras.utils.set_random_seed(0)
    return keras_networks.narrow_peer(version, 4, CLASSES).model


def trunk(version: int = 1) -> keras.Model:
    """The same without pooling and head."""
    model = peer(version)
    end = next(layer for layer in model.layers if isinstance(layer, layers.GlobalAveragePooling2D))
    return keras.Model(model.input, end.input, name="resnet50")


def sequential(*before: keras.Layer, head: tuple[keras.Layer, ...] = (), version: int = 1) -> keras.Model:
    """`before`, the trunk as a model inside of the model, and `head`, in its place the usual one."""
    usual = (layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(CLASSES, "softmax"))
    return keras.Sequential([layers.Input((SIDE, SIDE, 3)), *before, trunk(version), *(head or usual)])


def functional(preprocess: Callable, version: int = 1) -> keras.Model:
    """The usual model for transfer learning, `preprocess` being part of it."""
    images = layers.Input((SIDE, SIDE, 3))
    x = trunk(version)(preprocess(images), training=False)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax")(x))


def course_model(head: str = "fc5") -> keras.Model:
    """The model of the course at deeplearning.ai: the older names, another pooling, a head of any name."""
    model = keras_networks.old_peer(4, CLASSES, SIDE).model
    end = next(layer for layer in model.layers if isinstance(layer, layers.GlobalAveragePooling2D))
    x = layers.Flatten()(layers.AveragePooling2D((2, 2), name="avg_pool")(end.input))
    return keras.Model(model.input, layers.Dense(CLASSES, activation="softmax", name=head)(x))


def unnamed_course_model() -> keras.Model:
    """The same as its newer notebooks write it: Keras names all layers."""
    model = course_model()
    rename = {layer.name: f"{type(layer).__name__.lower()}_{i}" for i, layer in enumerate(model.layers)}
    copy = keras.models.clone_model(model, clone_function=lambda layer: renamed(layer, rename[layer.name]))
    copy.set_weights(model.get_weights())
    return copy


def renamed(layer: keras.Layer, name: str) -> keras.Layer:
    return type(layer).from_config({**layer.get_config(), "name": name})


def with_setting(kind: type, change: dict[str, object]) -> keras.Model:
    """The network in which the last layer of `kind` has other settings."""
    model = peer()
    last = [layer for layer in model.layers if isinstance(layer, kind)][-1]

    def clone(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), **(change if layer is last else {})})

    return keras.models.clone_model(model, clone_function=clone)


def adapted() -> keras.Layer:
    layer = layers.Normalization()
    layer.adapt(pictures().astype(np.float32))
    return layer


def in_bfloat16() -> keras.Model:
    keras.config.set_dtype_policy("bfloat16")
    try:
        return sequential(layers.Rescaling(1 / 255))
    finally:
        keras.config.set_dtype_policy("float32")


MEAN_POOL = layers.GlobalAveragePooling2D
CAFFE = keras.applications.resnet.preprocess_input
SYMMETRIC = keras.applications.resnet_v2.preprocess_input

# Models that are answered here as Keras answers them.
ANSWERED: dict[str, Variant] = {
    "the network alone, normalised outside": peer,
    "the network alone, V2": lambda: peer(2),
    "Rescaling(1/255)": lambda: sequential(layers.Rescaling(1 / 255)),
    "Rescaling(1/127.5, offset=-1), V2": lambda: sequential(layers.Rescaling(1 / 127.5, -1), version=2),
    "Rescaling of each channel": lambda: sequential(layers.Rescaling([0.01, 0.02, 0.03], [-1.0, 0.0, 0.5])),
    "Normalization(mean, variance)": lambda: sequential(
        layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3600.0, 2500.0, 4900.0])
    ),
    "Normalization, adapted": lambda: sequential(adapted()),
    "Rescaling, then Normalization": lambda: sequential(
        layers.Rescaling(1 / 255), layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04, 0.09, 0.01])
    ),
    "preprocess_input of ResNet inside": lambda: functional(CAFFE),
    "preprocess_input of ResNet V2 inside": lambda: functional(SYMMETRIC, 2),
    "x[..., ::-1] / 255": lambda: functional(lambda x: x[..., ::-1] / 255.0),
    "ops.cast and arithmetic": lambda: functional(lambda x: (ops.cast(x, "float32") - 100.0) * 0.01),
    "augmentation before": lambda: sequential(
        layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomContrast(0.2), layers.Rescaling(1 / 255)
    ),
    "Resizing to the same size": lambda: sequential(layers.Resizing(SIDE, SIDE), layers.Rescaling(1 / 255)),
    "logits": lambda: sequential(layers.Rescaling(1 / 255), head=(MEAN_POOL(), layers.Dense(CLASSES))),
    "a Softmax layer": lambda: sequential(
        layers.Rescaling(1 / 255), head=(MEAN_POOL(), layers.Dense(CLASSES), layers.Softmax())
    ),
    "a head without bias": lambda: sequential(
        layers.Rescaling(1 / 255), head=(MEAN_POOL(), layers.Dense(CLASSES, use_bias=False))
    ),
    "models inside of models": lambda: keras.Sequential(
        [layers.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), sequential(layers.RandomFlip())]
    ),
    "course model, fc5": lambda: functional_of(course_model()),
    "course model, without names": lambda: functional_of(unnamed_course_model()),
    "bfloat16": in_bfloat16,
}


def functional_of(model: keras.Model) -> keras.Model:
    """`model` after a division by 255."""
    return keras.Sequential([layers.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), model])


def head(*parts: keras.Layer) -> keras.Model:
    return sequential(layers.Rescaling(1 / 255), head=parts)


@keras.saving.register_keras_serializable()
class Dropout(keras.Layer):
    """A layer of somebody's own that computes something, under the name of one of Keras that does not."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return 2 * inputs


# Models that compute what no network here does, and what the line names.
REFUSED: dict[str, tuple[Variant, tuple[str, ...]]] = {
    "Resizing from another size": (
        lambda: keras.Sequential(
            [layers.Input((None, None, 3)), layers.Resizing(SIDE, SIDE), trunk(), *_head()]
        ),
        ("layer resizing (Resizing)", "64x64", "interpolation=bilinear, antialias=False"),
    ),
    "CenterCrop of any image": (
        lambda: keras.Sequential(
            [layers.Input((None, None, 3)), layers.CenterCrop(64, 64), trunk(), *_head()]
        ),
        ("layer center_crop (CenterCrop)", "cuts 64x64"),
    ),
    "a convolution before": (
        lambda: sequential(layers.Conv2D(3, 1)),
        ("layer conv2d (Conv2D)",),
    ),
    "UpSampling2D before": (
        lambda: keras.Sequential([layers.Input((32, 32, 3)), layers.UpSampling2D(2), trunk(), *_head()]),
        ("layer up_sampling2d (UpSampling2D)", "is before the network"),
    ),
    "Rescaling by a negative number": (
        lambda: sequential(layers.Rescaling(-1 / 255)),
        ("layer rescaling (Rescaling)", "positive deviation"),
    ),
    "Normalization, inverted": (
        lambda: sequential(layers.Normalization(mean=[1.0] * 3, variance=[1.0] * 3, invert=True)),
        ("layer normalization (Normalization)", "invert=True"),
    ),
    "GlobalMaxPooling2D": (
        lambda: head(layers.GlobalMaxPooling2D(), layers.Dense(CLASSES)),
        ("layer global_max_pooling2d (GlobalMaxPooling2D)",),
    ),
    "Flatten": (lambda: head(layers.Flatten(), layers.Dense(CLASSES)), ("layer flatten (Flatten)",)),
    "a layer of somebody's own": (
        lambda: head(MEAN_POOL(), Dropout(), layers.Dense(CLASSES)),
        ("Custom>Dropout): ",),
    ),
    "sigmoid": (lambda: head(MEAN_POOL(), layers.Dense(CLASSES, "sigmoid")), ("(Dense)", "sigmoid")),
    "relu at the end": (lambda: head(MEAN_POOL(), layers.Dense(CLASSES, "relu")), ("(Dense)", "relu")),
    "tanh at the end": (
        lambda: head(MEAN_POOL(), layers.Dense(CLASSES, "tanh")),
        ("(Dense)", "activation='tanh'"),
    ),
    "one output": (lambda: head(MEAN_POOL(), layers.Dense(1)), ("(Dense)", "units=1")),
    "two dense layers": (
        lambda: head(MEAN_POOL(), layers.Dense(8, "relu"), layers.Dense(CLASSES)),
        ("(Dense)", "relu", "config.init_head=replace"),
    ),
    "a batch norm in the head": (
        lambda: head(MEAN_POOL(), layers.BatchNormalization(), layers.Dense(CLASSES)),
        ("(BatchNormalization)",),
    ),
    "a temperature": (
        lambda: head(MEAN_POOL(), layers.Dense(CLASSES), layers.Rescaling(0.5), layers.Softmax()),
        ("(Rescaling)",),
    ),
    "another stride": (lambda: with_setting(layers.Conv2D, {"strides": (2, 2)}), ("(Conv2D)", "strides=2")),
    "another epsilon": (
        lambda: with_setting(layers.BatchNormalization, {"epsilon": 0.1}),
        ("(BatchNormalization)", "epsilon=0.1", "1.001e-05"),
    ),
    "dilation": (
        lambda: with_setting(layers.Conv2D, {"dilation_rate": (2, 2)}),
        ("(Conv2D)", "dilation_rate", "[2, 2]"),
    ),
    "an activation in a convolution": (
        lambda: with_setting(layers.Conv2D, {"activation": "gelu"}),
        ("(Conv2D)", "activation", "gelu"),
    ),
    "another activation": (
        lambda: with_setting(layers.Activation, {"activation": "sigmoid"}),
        ("(Activation)",),
    ),
    "training=True": (
        lambda: keras.Model(
            (x := layers.Input((SIDE, SIDE, 3))),
            layers.Dense(CLASSES)(MEAN_POOL()(trunk()(x, training=True))),
        ),
        ("training=True",),
    ),
    "images that are no squares": (
        lambda: keras.Model(
            (x := layers.Input((SIDE, 96, 3))), layers.Dense(CLASSES)(MEAN_POOL()(trunk_of_any_size()(x)))
        ),
        ("64x96",),
    ),
    "two outputs": (
        lambda: keras.Model((m := peer()).input, [m.output, m.layers[-2].output]),
        ("2 output_layers",),
    ),
    "another network": (
        lambda: keras.applications.MobileNetV2(weights=None, classes=CLASSES, input_shape=(SIDE, SIDE, 3)),
        ("layer Conv1 (Conv2D)", "padding=same with strides=2"),
    ),
}


def _head() -> tuple[keras.Layer, ...]:
    return MEAN_POOL(), layers.Dense(CLASSES)


def trunk_of_any_size() -> keras.Model:
    model = keras_networks.old_peer(4, CLASSES).model
    return keras.Model(model.input, model.layers[-2].input)


def probabilities(pretrained: Pretrained) -> np.ndarray:
    network = Network(
        pretrained.architecture,
        pretrained.preprocessing,
        len(pretrained.class_names),
        compute_dtype="float32",
        convolution="lax",
    )
    logits, _, _ = network.apply(pretrained.weights, pictures(), train=False)
    return np.asarray(jax.nn.softmax(logits))


def answer(model: keras.Model) -> np.ndarray:
    """Keras' answer to `pictures`, as probabilities."""
    values = np.asarray(model(pictures().astype(np.float32), training=False), np.float32)
    is_softmax = values.min() >= 0 and np.allclose(values.sum(-1), 1, atol=0.01)
    return values if is_softmax else np.asarray(jax.nn.softmax(values))


def spread(model: keras.Model) -> None:
    """Changes the head such that the answers to `pictures` differ; those of random weights hardly do."""
    head = [layer for layer in flattened(model) if isinstance(layer, layers.Dense)][-1]
    activation, head.activation = head.activation, keras.activations.linear
    softmax = [layer for layer in model.layers if isinstance(layer, layers.Softmax)]
    part = keras.Model(model.inputs, softmax[0].input) if softmax else model
    logits = np.asarray(part(pictures().astype(np.float32), training=False), np.float32)
    head.activation = activation
    kernel, *bias = head.get_weights()
    factor = 1 / logits.std(0).max()
    bias = [(b.astype(np.float32) - logits.mean(0)) * factor for b in bias]
    head.set_weights([kernel.astype(np.float32) * factor, *bias])


def flattened(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        yield from flattened(layer) if isinstance(layer, keras.Model) else [layer]


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_are_those_of_keras(name: str, tmp_path: Path, table: list[dict[str, object]]) -> None:
    model = ANSWERED[name]()
    spread(model)
    model.save(tmp_path / "model.keras")
    pretrained = read_pretrained(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    in_hdf5 = read_pretrained(tmp_path / "model.h5")
    assert (in_hdf5.architecture, in_hdf5.preprocessing) == (
        pretrained.architecture,
        pretrained.preprocessing,
    )
    jax.tree.map(np.testing.assert_array_equal, in_hdf5.weights, pretrained.weights)
    assert pretrained.preprocessing.image_size == SIDE
    assert pretrained.preprocessing.crop == 0.875  # as for weights alone: no layer changes the size
    if "outside" in name or "alone" in name:  # Then the images are normalised by the caller, here by nobody.
        raw = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "channel_order": "rgb"}
        pretrained = pretrained._replace(preprocessing=replace(pretrained.preprocessing, **raw))
    expected, found = answer(model), probabilities(pretrained)
    error = float(abs(found - expected).max())
    table.append({"peer": f"keras, {name}", "size": SIDE, "logits": error})
    assert expected.std(0).max() > 1e-3, (
        "the answers to all pictures are the same, so that nothing was tested"
    )
    assert error <= (0.1 if name == "bfloat16" else 1e-4)


def saved(model: keras.Model, folder: Path) -> Iterator[Path]:
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
        yield folder / name


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_here_is_refused_by_name(name: str, tmp_path: Path, lines: list[str]) -> None:
    keras.backend.clear_session()  # It counts the layers that it names.
    make, words = REFUSED[name]
    for path in saved(make(), tmp_path):
        with pytest.raises(UserError) as caught:
            read_pretrained(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        for word in words:
            assert word in message, message
    lines.append(f"{name}: {message.removeprefix(str(path))}")


@pytest.mark.parametrize(
    "name", ["GlobalMaxPooling2D", "Flatten", "two dense layers", "tanh at the end", "one output"]
)
def test_any_head_is_left_out(name: str, tmp_path: Path) -> None:
    for path in saved(REFUSED[name][0](), tmp_path):
        pretrained = read_pretrained(path, with_head=False)
        assert pretrained.class_names == ()
        assert pretrained.architecture.depth == 50


@pytest.mark.parametrize("name", sorted(INACTIVE))
def test_inactive_layers_change_nothing(name: str) -> None:
    options: dict[str, tuple] = {
        "Identity": (),
        "ActivityRegularization": (),
        "AugMix": (),
        "RandomPosterization": (4,),
        "RandomTranslation": (0.5, 0.5),
    }
    try:
        instance = getattr(layers, name)(*options.get(name, (0.5,)))
    except (TypeError, ValueError):  # The first argument is another one.
        instance = getattr(layers, name)()
    images = pictures().astype(np.float32)
    np.testing.assert_array_equal(np.asarray(instance(images, training=False)), images)


def test_sharded_weights(tmp_path: Path) -> None:
    model = sequential(layers.Rescaling(1 / 255))
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=2e-4)
    assert len(list(tmp_path.glob("*.weights.h5"))) > 2
    named = read_pretrained(tmp_path / "model.weights.json").weights.named()
    model.save(tmp_path / "model.keras")
    expected = read_pretrained(tmp_path / "model.keras").weights.named()
    assert named.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(named[name], array)


def test_first_layout_of_keras_3_has_no_names(tmp_path: Path) -> None:
    model = peer()
    model.save(tmp_path / "model.keras")
    expected = read_pretrained(tmp_path / "model.keras").weights.named()
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "weights.h5").write_bytes(files["model.weights.h5"])
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    files["model.weights.h5"] = (tmp_path / "weights.h5").read_bytes()
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    found = read_pretrained(tmp_path / "old.keras").weights.named()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
