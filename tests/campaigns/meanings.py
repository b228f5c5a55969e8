"""Changes to descriptions of a network whose meaning is known: each is honoured or refused, or is harmless.

`other`: the program refuses, or gives another answer. `same`: it refuses, or gives the same answer.
`refused`: there is no answer, as the description is in itself wrong.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.campaigns.mutations import with_value

Json = Any


class Meaning(NamedTuple):
    """A change to the description that a reader of `tests.campaigns.readers` reads."""

    reader: str
    name: str
    change: Callable[[Json], Json]
    expected: str


def _set(reader: str, expected: str, **fields: Json) -> list[Meaning]:
    """Returns a row for each of `fields`, in whose names `__` stands for a dot."""
    places = {name.replace("__", "."): value for name, value in fields.items()}
    return [
        Meaning(reader, f"{place}={value!r}", _setter(tuple(place.split(".")), value), expected)
        for place, value in places.items()
    ]


def _setter(place: tuple[str, ...], value: Json) -> Callable[[Json], Json]:
    return lambda content: with_value(content, place, value)


def _graph(class_name: str, **fields: Json) -> list[Meaning]:
    """Returns a row that sets `fields` in the configs of all layers of this class, in the graph of Keras."""

    def change(layer: dict[str, Json]) -> None:
        layer["config"] = layer["config"] | fields

    return [Meaning("keras_graph", f"{class_name} with {fields}", _of_layers(class_name, change), "other")]


def _renamed(old: str, new: str) -> list[Meaning]:
    """Returns a row that makes the layers of a class those of another one."""

    def change(layer: dict[str, Json]) -> None:
        layer["class_name"] = new

    return [Meaning("keras_graph", f"{new} for {old}", _of_layers(old, change), "other")]


def _of_layers(class_name: str, change: Callable[[dict[str, Json]], None]) -> Callable[[Json], Json]:
    def changed(graph: Json) -> Json:
        layers = [layer for layer in graph["config"]["layers"] if layer["class_name"] == class_name]
        assert layers, f"no {class_name} in the graph: nothing would be changed"
        for layer in layers:
            change(layer)
        return graph

    return changed


HALF = [0.5, 0.5, 0.5]
MEANINGS: tuple[Meaning, ...] = (
    *_set(
        "huggingface_config",
        "other",
        downsample_in_first_stage=True,
        hidden_act="gelu",
        problem_type="multi_label_classification",
        depths=[3, 4, 6, 3],
        layer_type="bottleneck",
        num_channels=1,
        embedding_size=16,
        model_type="vit",
        surprise=1,
    ),
    *_set("huggingface_config", "refused", id2label={"0": "one"}, num_labels=7),
    *_set(
        "huggingface_config", "same", transformers_version="5.0.0", _name_or_path="somewhere", dtype="float32"
    ),
    *_set(
        "huggingface_preprocessor",
        "other",
        do_normalize=False,
        do_rescale=False,
        do_resize=False,
        rescale_factor=1 / 127.5,
        image_mean=[0.4, 0.5, 0.6],
        image_std=HALF,
        resample=0,
        crop_pct=0.5,
        size={"shortest_edge": 64},
        surprise=1,
    ),
    *_set("huggingface_preprocessor", "other", size={"height": 64, "width": 96}),
    *_set("huggingface_preprocessor", "refused", image_std=[0, 0, 0], rescale_factor=0, crop_pct=0),
    *_set(
        "timm_config",
        "other",
        architecture="resnetblur18",
        global_pool="max",
        model_args={"act_layer": "silu"},
        pretrained_cfg__interpolation="nearest",
        pretrained_cfg__crop_pct=0.5,
        pretrained_cfg__crop_mode="squash",
        pretrained_cfg__mean=HALF,
        pretrained_cfg__std=HALF,
        pretrained_cfg__input_size=[3, 64, 64],
        surprise=1,
    ),
    *_set("timm_config", "other", architecture="resnet18d", model_args={"output_stride": 8}, num_classes=5),
    *_set("timm_config", "other", architecture="seresnet18", model_args={"replace_stem_pool": True}),
    *_set(
        "timm_config",
        "refused",
        label_names=["a", "b"],
        pretrained_cfg__std=[0, 0, 0],
        architecture="vit_tiny",
    ),
    *_set("timm_config", "same", pretrained_cfg__tag="other", pretrained_cfg__url="https://example.org"),
    *_set(
        "config_predict",
        "other",
        config__data__mean=[0.1, 0.2, 0.3],
        config__data__channel_order="bgr",
        config__data__standardize="image",
        config__data__crop=0.5,
        config__model__norm_epsilon=0.1,
        config__model__max_pool="none",
        config__temperature=0.25,
        config__test_time_flip=True,
    ),
    *_set(
        "config_predict",
        "refused",
        class_names=["a", "a", "a"],
        config__model__depth=34,
        config__model__width=8,
        config__data__std=[1e-300, 1e-300, 1e-300],
    ),
    *_set("config_predict", "refused", class_names=["a", "b"], config__data__image_size=8),
    *_set("config_predict", "refused", class_names=["a", "b", 3], config__temperature=0),
    *_set("config_export", "refused", class_names=["a", "a", "a"], config__model__depth=34),
    *_set("config_eval", "refused", class_names=["a", "b"], config__model__depth=34),
    *_set("config_predict", "same", config__optimizer__learning_rate=5.0, config__augment__flip=0.1),
    *_set(
        "safetensors_description",
        "other",
        data__mean=[0.1, 0.2, 0.3],
        data__crop=0.5,
        data__channel_order="bgr",
        model__norm_epsilon=0.1,
        test_time_flip=True,
        surprise=1,
    ),
    *_set(
        "safetensors_description",
        "refused",
        class_names=["a", "a", "a"],
        model__depth=34,
        data__std=[0, 0, 0],
    ),
    *_graph("Dense", activation="sigmoid"),
    *_graph("BatchNormalization", epsilon=0.1),
    *_graph("MaxPooling2D", pool_size=[2, 2]),
    *_graph("ZeroPadding2D", padding=[[0, 0], [0, 0]]),
    *_graph("InputLayer", batch_shape=[None, 48, 48, 3]),
    *_renamed("MaxPooling2D", "AveragePooling2D"),
    *_renamed("GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    *_renamed("Add", "Multiply"),
)
