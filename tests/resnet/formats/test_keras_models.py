"""Models of Keras by the graph that their files describe, and files that hold something else than weights."""

import copy
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from configs import default
from resnet.errors import UserError
from resnet.formats.keras_model import keras_archive
from resnet.network import Network
from resnet.pretrained import read_pretrained
from tests.resnet.networks import make_network
from training.network import adopt, initial_weights, read_initial_weights
from training.network import make_network as network_of_config

CLASSES = 3
ARCHITECTURE = {"variant": "v1", "norm_epsilon": 1.001e-5}


def network(**changes: object) -> Network:
    return make_network(CLASSES, **{**ARCHITECTURE, "zero_init_last": False, **changes})


def archive_files(**changes: object) -> dict[str, Any]:
    """The files of a `.keras` archive that Keras could have saved: of an export, without its description."""
    return copy.deepcopy(_archive_files(tuple(changes.items())))


@cache
def _archive_files(changes: tuple[tuple[str, object], ...]) -> dict[str, Any]:
    its = network(**dict(changes))
    content = keras_archive(its.init(0).named(), its.architecture, {})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {
            "metadata.json": {"keras_version": "3.15.1"},
            "config.json": json.loads(archive.read("config.json")),
            "model.weights.h5": archive.read("model.weights.h5"),
        }


def write(files: dict[str, Any], folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return folder / "model.keras"


def nested(depth: int) -> list:
    """Lists inside each other."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def layer(files: dict[str, Any], name: str) -> dict[str, Any]:
    return next(layer for layer in files["config.json"]["config"]["layers"] if layer["name"] == name)


def insert_after(files: dict[str, Any], name: str, kind: str, **settings: object) -> None:
    """Puts a layer after the layer `name`, between it and all that take its output."""
    config = files["config.json"]["config"]
    for node in (node for other in config["layers"] for node in other["inbound_nodes"]):
        for tensor in node["args"]:
            for one in tensor if isinstance(tensor, list) else [tensor]:
                history = one["config"]["keras_history"]
                history[0] = "extra" if history[0] == name else history[0]
    if config["output_layers"][0] == name:
        config["output_layers"][0] = "extra"
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}
    new = {"class_name": kind, "name": "extra", "config": {"name": "extra", **settings}}
    config["layers"].append({**new, "inbound_nodes": [{"args": [tensor], "kwargs": {}}]})


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        read_pretrained(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# What is answered


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth": 50, "variant": "v1.5", "width": 2},
        {
            "depth": 50,
            "variant": "v2",
            "max_pool": "zero_padded",
            "stride_in": "last_block",
            "conv_bias": True,
        },
        {"depth": 20, "stem": "3x3", "max_pool": "none", "norm_epsilon": 1e-3},
        {"depth": 50, "stem": "deep", "stem_width": 8, "groups": 2, "widen": 2},
        {"shortcut": "average_pool", "max_pool": "unpadded"},
        {"squeeze": 2, "width": 8},
    ],
)
def test_architecture_is_found_in_the_graph(changes: dict[str, object], tmp_path: Path) -> None:
    pretrained = read_pretrained(write(archive_files(**changes), tmp_path))
    expected = network(**changes)
    found = pretrained.architecture
    assert found == expected.architecture.__class__(
        **{**vars(expected.architecture), "variant": found.variant}
    )
    assert found.variant == expected.architecture.variant or not found.bottleneck
    for name, array in expected.init(0).named().items():
        np.testing.assert_array_equal(pretrained.weights.named()[name], array)


def test_layers_are_found_whatever_their_names(tmp_path: Path) -> None:
    files = archive_files()
    text = json.dumps(files["config.json"])
    for index, name in enumerate(layer["name"] for layer in files["config.json"]["config"]["layers"]):
        text = text.replace(f'"{name}"', f'"layer_{index}"')
    files["config.json"] = json.loads(text)
    named = read_pretrained(write(files, tmp_path)).weights.named()
    for name, array in network().init(0).named().items():
        np.testing.assert_array_equal(named[name], array)


def test_a_graph_without_preprocessing_is_prepared_for_as_its_weights_alone(tmp_path: Path) -> None:
    files = archive_files()
    (tmp_path / "w.weights.h5").write_bytes(files["model.weights.h5"])
    alone = read_pretrained(tmp_path / "w.weights.h5").preprocessing
    assert (alone.image_size, alone.fit, alone.crop) == (224, "crop", 0.875)
    assert read_pretrained(write(files, tmp_path)).preprocessing == alone


RESIZING = {"height": 64, "width": 64, "interpolation": "bicubic", "antialias": True}


@pytest.mark.parametrize(
    ("input_side", "kind", "settings", "fit", "crop"),
    [
        (64, "Rescaling", {"scale": 1 / 255, "offset": 0.0}, "crop", 1),
        (None, "Resizing", RESIZING | {"crop_to_aspect_ratio": True}, "crop", 1),
        (None, "Resizing", RESIZING, "stretch", 1),
        (80, "CenterCrop", {"height": 64, "width": 64}, "crop", 0.8),
    ],
)
def test_layers_in_front_make_the_square(
    input_side: int | None, kind: str, settings: dict[str, Any], fit: str, crop: float, tmp_path: Path
) -> None:
    files = archive_files()
    layer(files, "images")["config"]["batch_shape"] = [None, input_side, input_side, 3]
    insert_after(files, "images", kind, **settings)
    preprocessing = read_pretrained(write(files, tmp_path)).preprocessing
    assert (preprocessing.image_size, preprocessing.fit, preprocessing.crop) == (64, fit, crop)


def test_input_shape_is_the_image_size(tmp_path: Path) -> None:
    files = archive_files()
    layer(files, "images")["config"]["batch_shape"] = [None, 96, 96, 3]
    preprocessing = read_pretrained(write(files, tmp_path)).preprocessing
    assert (preprocessing.image_size, preprocessing.crop) == (96, 0.875)
    layer(files, "images")["config"]["batch_shape"] = [None, 96, 64, 3]
    assert "layer images (InputLayer): images of 96x64" in refusal(write(files, tmp_path))


@pytest.mark.parametrize(
    ("kind", "settings", "mean", "std"),
    [
        ("Rescaling", {"scale": 1 / 255, "offset": 0.0}, (0, 0, 0), (1, 1, 1)),
        ("Rescaling", {"scale": 1 / 127.5, "offset": -1}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (
            "Normalization",
            {"mean": [51, 102, 153], "variance": [25.5**2, 51**2, 51**2], "axis": [-1], "invert": False},
            (0.2, 0.4, 0.6),
            (0.1, 0.2, 0.2),
        ),
    ],
)
def test_layers_in_front_are_the_normalisation(
    kind: str, settings: dict[str, Any], mean: tuple, std: tuple, tmp_path: Path
) -> None:
    files = archive_files()
    insert_after(files, "images", kind, **settings)
    preprocessing = read_pretrained(write(files, tmp_path)).preprocessing
    np.testing.assert_allclose(preprocessing.mean, mean)
    np.testing.assert_allclose(preprocessing.std, std)
    assert preprocessing.channel_order == "rgb"


@pytest.mark.parametrize("kind", ["Dropout", "Softmax", "RandomFlip", "Activation"])
def test_layers_that_change_no_prediction(kind: str, tmp_path: Path) -> None:
    files = archive_files()
    where = "images" if kind == "RandomFlip" else "predictions" if kind == "Softmax" else "avg_pool"
    insert_after(files, where, kind, **({"activation": "linear"} if kind == "Activation" else {}))
    assert len(read_pretrained(write(files, tmp_path)).class_names) == CLASSES


def test_bfloat16(tmp_path: Path) -> None:
    files = archive_files()
    content = io.BytesIO(files["model.weights.h5"])
    with h5py.File(content, "r+") as file:
        place = "layers/conv2d/vars/0"
        values = file[place][()].astype(ml_dtypes.bfloat16)
        del file[place]
        file[place] = values.view("V2")
        file[place].attrs["dtype"] = "bfloat16"
    files["model.weights.h5"] = content.getvalue()
    found = read_pretrained(write(files, tmp_path)).weights.named()["stem_conv.kernel"]
    np.testing.assert_array_equal(found, values.astype(np.float32))


# The head


def legacy_weights(path: Path, **heads: int) -> Path:
    """Weights without a graph, in the layout of Keras 1 and 2; `heads` are dense layers and their units."""
    with h5py.File(path, "w") as file:
        files = archive_files()
        with h5py.File(io.BytesIO(files["model.weights.h5"])) as weights:
            groups = [group["vars"] for group in weights["layers"].values() if len(group["vars"])]
            layers = {group.attrs["name"]: [group[str(i)][()] for i in range(len(group))] for group in groups}
        del layers["predictions"]
        layers |= {name: [np.ones((32, units), np.float32), np.ones(units)] for name, units in heads.items()}
        for name, arrays in layers.items():
            names = [f"{name}/weight_{i}:0" for i in range(len(arrays))]
            for its_name, array in zip(names, arrays, strict=True):
                file[f"{name}/{its_name}"] = array
            file[name].attrs["weight_names"] = names
        file.attrs["layer_names"] = list(layers)
    return path


def test_head_is_found_by_its_place(tmp_path: Path) -> None:
    assert len(read_pretrained(legacy_weights(tmp_path / "w.h5", fc6=6)).class_names) == 6


def test_two_heads_are_refused_unless_the_head_is_replaced(tmp_path: Path) -> None:
    path = legacy_weights(tmp_path / "w.h5", dense=8, dense_1=6)
    assert "has the dense layers dense, dense_1; expected one" in refusal(path)
    config = default.get_config()
    config.init_from, config.init_head = str(path), "replace"
    pretrained = read_initial_weights(config)
    assert pretrained is not None
    its = network_of_config(adopt(config, pretrained), 4)
    head = initial_weights(its, pretrained, init_head="replace", seed=0).params["head"]
    assert head["kernel"].shape == (32, 4)


# What is refused


def _with_setting(name: str, setting: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda files: layer(files, name)["config"].__setitem__(setting, value)


def _with(after: str, kind: str, **settings: object) -> Callable[[dict[str, Any]], None]:
    return lambda files: insert_after(files, after, kind, **settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with("images", "Lambda"), "layer extra (Lambda): is before the network"),
        (_with("images", "Rescaling", scale=-1), "layer extra (Rescaling): pixels x [-1.0"),
        (_with("images", "Rescaling", scale="x"), "layer extra (Rescaling): computes with 'x'"),
        (_with("images", "Rescaling", scale=0), "layer extra (Rescaling): pixels x [0.0"),
        (_with("images", "Resizing", height=64, width=64, interpolation="bilinear"), "resizes to 64x64"),
        (_with("images", "Resizing", height="big"), "layer extra (Resizing)"),
        (_with("images", "CenterCrop", height=10**400, width=10**400), "the maximum of 100000"),
        (_with("images", "Normalization", axis=[-1]), "layers/normalization/vars: found nothing"),
        (_with("conv2_block1_out", "Dense", units=4), "layer extra (Dense): computes dense"),
        (_with("conv2_block1_out", "Lambda"), "layer extra (Lambda)"),
        (_with("conv1_conv", "GELU"), "layer extra (GELU)"),
        (_with("avg_pool", "BatchNormalization"), "layer extra (BatchNormalization): is in the head as norm"),
        (
            _with("predictions", "Activation", activation="sigmoid"),
            "layer extra (Activation): is in the head",
        ),
        (
            _with("predictions", "Activation", activation={"class_name": "F"}),
            "is in the head as activation={",
        ),
        (_with("predictions", "Dense", units=2), "layer extra (Dense): is in the head as dense"),
        (_with_setting("predictions", "units", 1), "layer predictions (Dense): units=1"),
        (
            _with_setting("predictions", "activation", "relu"),
            "layer predictions (Dense): is in the head as relu",
        ),
        (_with_setting("conv2_block1_1_conv", "strides", [3, 3]), "(Conv2D): strides=3; expected 1"),
        (_with_setting("conv2_block1_1_conv", "strides", [1, 2]), "(Conv2D): strides=[1, 2]"),
        (
            _with_setting("conv2_block1_1_conv", "dilation_rate", [2, 2]),
            "dilation_rate: [2, 2] is not one of",
        ),
        (_with_setting("conv2_block1_1_conv", "data_format", "channels_first"), "'channels_first'"),
        (_with_setting("conv2_block1_1_conv", "new_setting", 1), "('new_setting' was unexpected)"),
        (_with_setting("conv2_block1_1_conv", "dtype", {"config": {"name": "int8"}}), "'int8'"),
        (
            _with_setting("conv2_block1_1_bn", "epsilon", 0.5),
            "layer conv2_block1_1_bn (BatchNormalization): eps",
        ),
        (_with_setting("conv2_block1_1_bn", "axis", 1), "axis: 1 is not one of"),
        (_with_setting("conv2_block1_1_bn", "scale", False), "scale: False is not one of"),
        (
            _with_setting("conv1_pad", "padding", [[2, 3], [2, 3]]),
            "padding=[[2, 3], [2, 3]]; expected [[3, 3]",
        ),
        (_with_setting("pool1_pool", "pool_size", [2, 2]), "layer pool1_pool (MaxPooling2D): pool_size=2"),
        (_with_setting("avg_pool", "keepdims", True), "layer avg_pool (GlobalAveragePooling2D)"),
    ],
)
def test_what_no_network_here_computes_is_named(
    change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    files = archive_files()
    change(files)
    assert words in refusal(write(files, tmp_path))


@pytest.mark.parametrize("where", ["images", "conv2_block1_out", "avg_pool"])
@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({"module": "layers", "registered_name": "Custom>Dropout"}, "Dropout, registered as Custom>Dropout"),
        (
            {"module": "keras.layers", "registered_name": "Custom>Dropout"},
            "Dropout, registered as Custom>Dropout",
        ),
        ({"module": "__main__", "registered_name": "Dropout"}, "__main__.Dropout"),
        ({"class_name": "Mine", "registered_name": "Dropout"}, "Mine, registered as Dropout"),
    ],
)
def test_a_layer_of_somebody_s_own_is_not_taken_for_that_of_keras(
    names: dict[str, str], kind: str, where: str, tmp_path: Path
) -> None:
    files = archive_files()
    insert_after(files, where, "Dropout")
    layer(files, "extra").update(module="keras.layers", registered_name=None)
    assert len(read_pretrained(write(files, tmp_path)).class_names) == CLASSES
    layer(files, "extra").update(names)
    assert f"layer extra ({kind}): " in refusal(write(files, tmp_path))


def test_a_model_of_somebody_s_own_is_not_taken_for_that_of_keras(tmp_path: Path) -> None:
    files = archive_files()
    files["config.json"]["registered_name"] = "Custom>Functional"
    assert "is a Functional, registered as Custom>Functional, which its class" in refusal(
        write(files, tmp_path)
    )


@pytest.mark.parametrize("kind", ["Size", "Constant", "Input", "Mapped", "Op", "Node", "Source", "Picked"])
def test_no_layer_in_front_has_the_name_of_a_helper(kind: str, tmp_path: Path) -> None:
    files = archive_files()
    insert_after(files, "images", kind)
    assert f"layer extra ({kind}): is before the network" in refusal(write(files, tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.update(class_name="MyModel"), "is a MyModel"),
        (lambda model: model.pop("config"), "'config' is a required property"),
        (lambda model: model["config"].update(layers=[]), "layers"),
        (lambda model: model["config"].update(layers=[3]), "layers[0]"),
        (lambda model: model["config"]["layers"][1].pop("name"), "'name' is a required property"),
        (lambda model: model["config"]["layers"][1].pop("inbound_nodes"), "'inbound_nodes' is a required"),
        (lambda model: model["config"]["layers"][1]["inbound_nodes"][0].update(args=nested(600)), "brackets"),
        (lambda model: model["config"].update(output_layers=["nowhere", 0, 0]), "nowhere:0"),
        (lambda model: model["config"].update(output_layers=[["a", 0, 0], ["b", 0, 0]]), "2 output_layers"),
        (lambda model: model["config"]["layers"][1].update(inbound_nodes=[3]), "is not of type"),
        (lambda model: model["config"]["layers"][1].update(inbound_nodes=[{"args": 3}]), "args"),
        (
            lambda model: model["config"]["layers"][1]["inbound_nodes"][0]["args"][0].update(config=3),
            "is not of type",
        ),
        (
            lambda model: model["config"]["layers"][1]["inbound_nodes"][0]["kwargs"].update(training=True),
            "training=True",
        ),
        (
            lambda model: model["config"]["layers"][1]["inbound_nodes"][0]["args"][0]["config"].update(
                keras_history=["predictions", 0, 0]
            ),
            "in a circle",
        ),
    ],
)
def test_graph_that_is_none(change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path) -> None:
    files = archive_files()
    change(files["config.json"])
    assert words in refusal(write(files, tmp_path))


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"3", b"null", b"[]"])
def test_graph_that_is_no_json_object(content: bytes, tmp_path: Path) -> None:
    refusal(write({**archive_files(), "config.json": content}, tmp_path))


# Bombs, and content of other places


def test_archive_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("metadata.json", b"{}")
        archive.writestr("config.json", b"{}")
        with archive.open("model.weights.h5", "w") as file:
            for _ in range(80):
                file.write(bytes(2**20))
    assert "model.weights.h5 in it unpacks from" in refusal(path)
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (2**32 - 2).to_bytes(4, "little")  # the size it declares
    path.write_bytes(content)
    assert "to 4,294,967,294 bytes; expected at most 1,073,741,824" in refusal(path)


def test_archive_whose_member_is_larger_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model.weights.h5", bytes(2**26))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")  # the size it declares
    path.write_bytes(content)
    tracemalloc.start()
    assert "truncated or damaged (BadZipFile: Bad CRC-32" in refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def test_archive_that_is_packed_as_keras_does_not(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("model.weights.h5", b"weights")
    assert "model.weights.h5 in it is packed by method 12 of zip; expected 0 (stored) or 8" in refusal(path)


def _dataset(path: str, *arguments: object, **options: object) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset(path, *arguments, **options)


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((32,), np.float32)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (32,))
    file.create_virtual_dataset(KERNEL, layout)


KERNEL = "layers/conv2d/vars/0"
LINK = h5py.SoftLink


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_dataset(KERNEL, data=h5py.Empty("f4")), "without data (Empty)"),
        (_dataset(KERNEL, data="weights"), "found text"),
        (_dataset(KERNEL, data=np.zeros(3, "S3")), "found text"),
        (_dataset(KERNEL, (3,), h5py.ref_dtype), "found references"),
        (_dataset(KERNEL, (3,), [("real", "f4"), ("other", "f4")]), "a compound type of real, other"),
        (_dataset(KERNEL, (3,), np.complex64), "found dtype complex64"),
        (_dataset(KERNEL, (3,), h5py.vlen_dtype(np.float32)), "found"),
        (_dataset(KERNEL, (2**32,), np.float32, chunks=(2**20,)), "17,179,869,184 bytes"),
        (
            _dataset(KERNEL, (2**43,), np.float32, chunks=(2**20,), compression="gzip"),
            "at most 1,073,741,824",
        ),
        (_dataset(KERNEL, (2**27,), np.float32, chunks=(2**20,)), "of which the file holds 0"),
        (
            _dataset(KERNEL, (3,), np.float32, maxshape=(None,), chunks=(2**27,), compression="gzip"),
            "in chunks of 536,870,912; expected chunks of at most 67,108,864",
        ),
        (
            _dataset(KERNEL, (3,), np.float32, external=[("/dev/zero", 0, 12)]),
            "content in the file /dev/zero",
        ),
        (_virtual, "a virtual data set"),
        (
            lambda file: file.__setitem__(KERNEL, LINK("/layers/conv2d_1/vars/0")),
            "a link to /layers/conv2d_1",
        ),
        (lambda file: file.__setitem__(KERNEL, LINK(f"/{KERNEL}")), "a link to"),
        (lambda file: file.__setitem__(KERNEL, h5py.ExternalLink("x.h5", "/x")), "in the file x.h5"),
        (lambda file: file.create_group(KERNEL), "found a group"),
        (lambda file: None, "conv1_conv"),
    ],
)
@pytest.mark.parametrize("with_graph", [True, False])
def test_weights_that_are_none(
    change: Callable[[h5py.File], None], words: str, with_graph: bool, tmp_path: Path
) -> None:
    files = archive_files()
    content = io.BytesIO(files["model.weights.h5"])
    with h5py.File(content, "r+") as file:
        del file[KERNEL]
        change(file)
    path = tmp_path / "w.weights.h5"
    if with_graph:
        path = write({**files, "model.weights.h5": content.getvalue()}, tmp_path)
    else:
        path.write_bytes(content.getvalue())
    message = refusal(path)
    assert words in message


def test_shards(tmp_path: Path) -> None:
    weight_map: dict[str, list[str]] = {}
    with h5py.File(io.BytesIO(archive_files()["model.weights.h5"])) as whole:
        for index, (name, group) in enumerate(whole["layers"].items()):
            shard = f"model_{index % 3:05}.weights.h5"
            with h5py.File(tmp_path / shard, "a") as file:
                whole.copy(group, file, f"layers/{name}")
            if len(group["vars"]):
                weight_map[f"/layers/{name}/vars"] = [shard]
    path = tmp_path / "model.weights.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    named = read_pretrained(path).weights.named()
    for name, array in network().init(0).named().items():
        np.testing.assert_array_equal(named[name], array)
    (tmp_path / "model_00001.weights.h5").unlink()
    with pytest.raises(
        UserError, match=r"model_00001.weights.h5: no such file, but model.weights.json lists"
    ):
        read_pretrained(path)
    path.write_text(json.dumps({"weight_map": {"/x/vars": "../secret.h5"}}))
    assert "'../secret.h5' does not match" in refusal(path)
