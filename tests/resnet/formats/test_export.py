"""Out and in again gives the same bits, the same settings and the same classes."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from resnet.errors import UserError
from resnet.formats import EXPORT_FORMATS, PROGRAMS
from resnet.formats.export import EXPORTERS, INITIAL_ONLY, describe_input, export
from resnet.network import Network, Weights
from resnet.preprocessing import Preprocessing
from resnet.pretrained import load_pretrained, read_pretrained
from tests.resnet.networks import make_network

CLASSES = ("zero", "one", "two")
READ_AGAIN = [format for format in EXPORT_FORMATS if format not in PROGRAMS]
KERAS_V2 = {"variant": "v2", "max_pool": "zero_padded", "stride_in": "last_block", "conv_bias": True}


PREPROCESSING = {
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "crop": 0.9,
    "image_size": 96,
}


def random_network(**changes: object) -> tuple[Network, Weights]:
    network = make_network(**{"depth": 50, **PREPROCESSING, **changes})
    rng = np.random.default_rng(0)
    named = network.init(0).named()
    named = {n: rng.uniform(0.1, 1, x.shape).astype(np.float32) for n, x in named.items()}
    return network, Weights.from_named(named)


def test_every_format_has_an_exporter() -> None:
    assert tuple(EXPORTERS) == EXPORT_FORMATS


@pytest.mark.parametrize(
    ("format", "model"),
    [
        *((format, {"depth": depth}) for format in READ_AGAIN for depth in (18, 50)),
        ("torchvision", {"groups": 4, "widen": 2}),
        ("huggingface", {"variant": "v1"}),
        ("huggingface", {"stem_width": 4}),
        ("keras", {"channel_order": "bgr"}),
        ("safetensors", {"channel_order": "bgr"}),
        ("keras", {"variant": "v1", "norm_epsilon": 1.001e-5}),
        ("keras", KERAS_V2),
        ("keras", {"depth": 20, "stem": "3x3", "max_pool": "none"}),
        ("keras", {"stem": "deep", "shortcut": "average_pool", "squeeze": 4}),
        ("safetensors", {"variant": "v2", "stem": "deep", "squeeze": 4}),
        ("safetensors", {"depth": 20, "shortcut": "zero_pad", "residual": True}),
    ],
)
def test_out_and_in_gives_the_same_bits(format: str, model: dict, tmp_path: Path) -> None:
    network, weights = random_network(**model)
    back = read_pretrained(export(network, weights, CLASSES, format=format, folder=tmp_path))
    named = weights.named()
    assert back.weights.named().keys() == named.keys()
    for name, array in back.weights.named().items():
        np.testing.assert_array_equal(array, named[name], err_msg=name)
    assert back.class_names == CLASSES
    assert back.preprocessing == network.preprocessing
    for field, value in asdict(network.architecture).items():
        assert field in INITIAL_ONLY or getattr(back.architecture, field) == value


@pytest.mark.parametrize("format", ["torchvision", "huggingface"])
def test_a_network_of_blue_green_and_red_takes_red_green_and_blue_in_pytorch(
    format: str, tmp_path: Path
) -> None:
    network = make_network(**PREPROCESSING, channel_order="bgr")
    weights = network.init(0)
    back = read_pretrained(export(network, weights, CLASSES, format=format, folder=tmp_path))
    assert back.preprocessing == replace(network.preprocessing, channel_order="rgb")
    again = Network(back.architecture, back.preprocessing, len(CLASSES), compute_dtype="float32")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    _, expected, _ = network.apply(weights, images, train=False)
    _, found, _ = again.apply(back.weights, images, train=False)
    np.testing.assert_allclose(found["pooled"], expected["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", READ_AGAIN)
def test_weights_without_a_head_are_read_again(format: str, tmp_path: Path) -> None:
    network = make_network(0, image_size=32, temperature=0.5)
    weights = network.init(0)
    path = export(network, weights, (), format=format, folder=tmp_path)
    back = load_pretrained(path)
    assert back.class_names == ()
    for name, array in weights.named().items():
        np.testing.assert_array_equal(back.weights.named()[name], array, err_msg=name)
    assert back.features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 32)


def test_transformers_load_a_network_without_a_head_as_one(tmp_path: Path) -> None:
    network = make_network(0)
    folder = export(network, network.init(0), (), format="huggingface", folder=tmp_path)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["ResNetModel"]
    names = load_file(folder / "model.safetensors").keys()
    assert "embedder.embedder.convolution.weight" in names
    assert not [name for name in names if name.startswith(("resnet.", "classifier."))]


@pytest.mark.parametrize(
    ("format", "model", "field"),
    [
        ("torchvision", {"variant": "v1"}, "variant=v1"),
        ("torchvision", {"stem": "3x3"}, "stem=3x3"),
        ("huggingface", {"variant": "v2"}, "variant=v2"),
        ("huggingface", {"groups": 2}, "groups=2"),
        ("huggingface", {"depth": 20}, "depth=20"),
        ("keras", {"shortcut": "zero_pad"}, "shortcut=zero_pad"),
        ("keras", {"variant": "v2"}, "max_pool=padded with variant v2"),
    ],
)
def test_what_a_format_has_no_network_for_is_refused(
    format: str, model: dict, field: str, tmp_path: Path
) -> None:
    network, weights = random_network(**model)
    with pytest.raises(UserError, match=field):
        export(network, weights, CLASSES, format=format, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_variances_take_up_the_difference_to_pytorch_s_epsilon(tmp_path: Path) -> None:
    network, weights = random_network(depth=18, norm_epsilon=0.25)
    back = read_pretrained(export(network, weights, CLASSES, format="torchvision", folder=tmp_path))
    assert back.architecture.norm_epsilon == 1e-5
    var = back.weights.batch_stats["stem_norm"]["var"]
    np.testing.assert_allclose(var + 1e-5, weights.batch_stats["stem_norm"]["var"] + 0.25, rtol=1e-6)


def test_folder_for_transformers(tmp_path: Path) -> None:
    network, weights = random_network(depth=50, variant="v1")
    folder = export(network, weights, CLASSES, format="huggingface", folder=tmp_path)
    written = json.loads((folder / "config.json").read_text())
    assert written["hidden_sizes"] == [16, 32, 64, 128]
    assert written["downsample_in_bottleneck"] is True
    assert written["id2label"] == {"0": "zero", "1": "one", "2": "two"}
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [0.1, 0.2, 0.3]


def test_transformers_get_no_preprocessor_that_would_normalise_otherwise(tmp_path: Path) -> None:
    network, weights = random_network(depth=18, standardize="image")
    folder = export(network, weights, CLASSES, format="huggingface", folder=tmp_path)
    assert not (folder / "preprocessor_config.json").exists()
    assert read_pretrained(folder).preprocessing.standardize == "image"


def test_an_export_leaves_no_preprocessor_of_the_network_before_it(tmp_path: Path) -> None:
    for changes in ({"crop": 0.9}, {"fit": "pad"}):
        network, weights = random_network(depth=18, **changes)
        folder = export(network, weights, CLASSES, format="huggingface", folder=tmp_path)
        (folder / "notes.txt").write_text("of the user")
        assert (folder / "preprocessor_config.json").exists() == (network.preprocessing.fit == "crop")
    assert (folder / "notes.txt").exists()
    assert read_pretrained(folder).preprocessing == network.preprocessing


def test_an_export_leaves_no_onnx_model_and_no_card_of_other_weights(tmp_path: Path) -> None:
    network, weights = random_network(depth=18)
    folder = export(network, weights, CLASSES, format="huggingface", folder=tmp_path)
    headless = make_network(0, **PREPROCESSING)
    for classes, its, has_card in ((CLASSES, network, True), ((), headless, False)):
        for name in ("model.onnx", "README.md"):
            (folder / name).write_text("of the export before")
        export(its, its.init(0), classes, format="huggingface", folder=tmp_path)
        assert not (folder / "model.onnx").exists()
        assert (folder / "README.md").exists() == has_card  # `--mode=export` writes it anew.


def test_a_file_that_cannot_be_removed(tmp_path: Path) -> None:
    network, weights = random_network(depth=18, standardize="image")
    (tmp_path / "huggingface" / "preprocessor_config.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"preprocessor_config\.json: cannot be written"):
        export(network, weights, CLASSES, format="huggingface", folder=tmp_path)


def test_input_in_words_is_what_the_network_takes() -> None:
    preprocessing = Preprocessing(**PREPROCESSING, channel_order="bgr")
    normalized = "(pixels / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6] of red, green and blue"
    assert describe_input(preprocessing, "keras") == f"float32 [N, 96, 96, 3], BGR; {normalized}"
    words = describe_input(replace(preprocessing, standardize="image"), "torchvision")
    assert words.startswith("float32 [N, 3, 96, 96], RGB; ")
    assert words.endswith("of each image")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    network, weights = random_network(depth=18)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(network, weights, CLASSES, format="safetensors", folder=tmp_path / "file")


def test_format_that_there_is_not(tmp_path: Path) -> None:
    network, weights = random_network(depth=18)
    with pytest.raises(UserError, match="format onyx: no such format; expected one of torchvision,"):
        export(network, weights, CLASSES, format="onyx", folder=tmp_path)
