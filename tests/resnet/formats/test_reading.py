"""What is wrong with a file of weights is told in one line, whatever it is."""

import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import resnet
from configs import default
from resnet.errors import UserError
from resnet.formats import huggingface, keras, torchvision
from resnet.formats.export import export
from resnet.formats.names import Arrays
from resnet.formats.weights_file import read_container
from resnet.pretrained import read_pretrained
from tests.resnet.networks import make_network
from tests.weights import in_torchvision
from training.network import adopt, initial_weights
from training.network import make_network as network_of_config


def network_arrays(**model: object) -> Arrays:
    """A narrow ResNet-18 under our names, norms drawn at random."""
    rng = np.random.default_rng(0)
    named = make_network(**model).init(0).named()
    return {n: x if n.endswith("kernel") else rng.random(x.shape, np.float32) for n, x in named.items()}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return in_torchvision(network_arrays())


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_pretrained(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def saved(arrays: Arrays, path: Path) -> Path:
    save_file(arrays, path / "weights.safetensors")
    return path / "weights.safetensors"


# Tables


@pytest.mark.parametrize(
    ("format", "foreign", "ours"),
    [
        (torchvision.FORMAT, "layer2.0.downsample.1.running_var", "stage2.block1.shortcut.norm.var"),
        (torchvision.FORMAT, "layer3.22.conv3.weight", "stage3.block23.conv3.kernel"),
        (
            huggingface.FORMAT,
            "resnet.encoder.stages.3.layers.2.layer.1.normalization.bias",
            "stage4.block3.norm2.bias",
        ),
        (keras.V1, "conv2_block1_0_bn/moving_mean", "stage1.block1.shortcut.norm.mean"),
        (keras.V2, "conv5_block3_2_bn/gamma", "stage4.block3.norm3.scale"),
        (keras.V2, "conv3_block4_preact_bn/beta", "stage2.block4.norm1.bias"),
        (keras.OLD, "res4f_branch2b/kernel", "stage3.block6.conv2.kernel"),
    ],
)
def test_names_there_and_back(format, foreign: str, ours: str) -> None:
    assert format.our_name(foreign)[0] == ours
    assert format.foreign_name(ours)[0] == foreign


@pytest.mark.parametrize(
    "name", ["layer1.0.conv0.weight", "layer1.0.conv1.weight.x", "xlayer1.0.conv1.weight"]
)
def test_names_that_are_in_no_table(name: str) -> None:
    assert torchvision.FORMAT.our_name(name) is None


# What is taken


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_point_numbers_become_float32(dtype: type, arrays: Arrays, tmp_path: Path) -> None:
    if dtype is np.float64:
        path = saved({name: array.astype(dtype) for name, array in arrays.items()}, tmp_path)
    else:
        path = _write_safetensors(arrays, dtype, tmp_path)
    named = read_pretrained(path).weights.named()
    for name, array in network_arrays().items():
        assert named[name].dtype == np.float32
        np.testing.assert_array_equal(named[name], array.astype(dtype).astype(np.float32))


def _write_safetensors(arrays: Arrays, dtype: type, folder: Path) -> Path:
    """By hand: the library writes no bfloat16 of NumPy's."""
    header, content = {}, b""
    for name, array in arrays.items():
        data = array.astype(dtype).tobytes()
        kind = "F16" if dtype is np.float16 else "BF16"
        header[name] = {
            "dtype": kind,
            "shape": array.shape,
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps(header).encode()
    (folder / "half.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
    return folder / "half.safetensors"


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_dropped(prefix: str, arrays: Arrays, tmp_path: Path) -> None:
    path = saved({prefix + name: array for name, array in arrays.items()}, tmp_path)
    assert read_pretrained(path).weights.named().keys() == network_arrays().keys()


def test_weights_without_a_head(arrays: Arrays, tmp_path: Path) -> None:
    path = saved({name: array for name, array in arrays.items() if "fc" not in name}, tmp_path)
    pretrained = read_pretrained(path)
    assert pretrained.class_names == ()
    with pytest.raises(UserError, match="have no head"):
        resnet.load_pretrained(path).predict([np.zeros((64, 64, 3), np.uint8)])
    network = network_of_config(adopt(default.get_config(), pretrained), 6)
    weights = initial_weights(network, pretrained, init_head="auto", seed=0)
    assert weights.params["head"]["kernel"].shape == (32, 6)


def test_biases_before_norms_are_folded_into_their_means(tmp_path: Path) -> None:
    named = network_arrays(depth=50, variant="v1")
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layers: dict[str, list[np.ndarray]] = {}
        for name in sorted(
            named, key=lambda n: ["kernel", "scale", "bias", "mean", "var"].index(n.split(".")[-1])
        ):
            foreign = keras.V1.foreign_name(name)[0].split("/")[0]
            layers.setdefault(foreign, []).append(named[name])
        biases = {}
        for layer, weights in layers.items():
            if len(weights) == 1:
                biases[layer] = rng.random(weights[0].shape[-1], np.float32)
                weights.append(biases[layer])
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{i}" for i in range(len(weights))]
            for i, array in enumerate(weights):
                group[f"{i}"] = array
        file.attrs["layer_names"] = sorted(layers)
    found = read_pretrained(tmp_path / "w.h5").weights.named()
    assert found.keys() == named.keys()
    expected = named["stage2.block1.norm2.mean"] - biases["conv3_block1_2_conv"]
    np.testing.assert_array_equal(found["stage2.block1.norm2.mean"], expected)
    np.testing.assert_array_equal(found["stage2.block1.norm2.var"], named["stage2.block1.norm2.var"])


def test_head_is_kept_or_replaced_by_the_config(arrays: Arrays, tmp_path: Path) -> None:
    pretrained = read_pretrained(saved(arrays, tmp_path))
    config = adopt(default.get_config(), pretrained)
    assert (config.model.depth, config.model.width) == (18, 4)
    assert config.data.mean == (0.485, 0.456, 0.406)
    assert config.data.image_size == 64
    network = network_of_config(config, 3)
    kept = initial_weights(network, pretrained, init_head="auto", seed=0)
    assert kept is pretrained.weights
    replaced = initial_weights(network, pretrained, init_head="replace", seed=1)
    assert not np.array_equal(replaced.params["head"]["kernel"], kept.params["head"]["kernel"])
    assert replaced.params["stage1"] is kept.params["stage1"]
    with pytest.raises(UserError, match="the weights have 3 classes, the data set 6"):
        initial_weights(network_of_config(config, 6), pretrained, init_head="keep", seed=0)


# What is refused


def test_everything_that_does_not_fit_is_in_one_error(arrays: Arrays, tmp_path: Path) -> None:
    wrong = dict(arrays)
    del wrong["layer4.1.bn2.weight"], wrong["bn1.running_var"]
    wrong["layer1.0.extra.weight"] = np.zeros(3, np.float32)
    wrong["layer2.0.conv1.weight"] = np.zeros((8, 4, 5, 5), np.float32)
    wrong["layer3.0.bn1.bias"] = np.zeros(16, np.int32)
    wrong["layer3.1.bn1.bias"] = np.full(16, np.nan, np.float32)
    message = refusal(saved(wrong, tmp_path))
    assert "does not fit ResNet-18 of torchvision" in message
    for part in (
        "missing: layer4.1.bn2.weight, bn1.running_var;",
        "left over: layer1.0.extra.weight;",
        "of another shape: layer2.0.conv1.weight [5, 5, 4, 8], expected [3, 3, 4, 8]",
        "layer3.0.bn1.bias (int32)",
        "layer3.1.bn1.bias (not finite)",
    ):
        assert part in message


def test_half_a_checkpoint(arrays: Arrays, tmp_path: Path) -> None:
    half = {name: array for name, array in arrays.items() if not name.startswith(("layer3", "layer4"))}
    message = refusal(saved(half, tmp_path))
    assert "missing: layer3.0.bn1.weight" in message or "missing: layer3.0" in message
    assert "more" in message


def test_another_network(tmp_path: Path) -> None:
    path = saved({"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}, tmp_path)
    message = refusal(path)
    assert "not a residual network that is known here (its names: features.0.weight)" in message
    assert "torchvision, huggingface, keras" in message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("conv1.3.weight", "a deep stem"),
        ("layer1.0.se.fc1.weight", "squeeze-and-excitation"),
        ("layer2.0.downsample.2.weight", "a shortcut with average pooling"),
    ],
)
def test_variants_of_timm_are_refused_by_name(name: str, reason: str, arrays: Arrays, tmp_path: Path) -> None:
    message = refusal(saved({**arrays, name: np.zeros(4, np.float32)}, tmp_path))
    assert reason in message
    assert name in message


def test_truncated_and_damaged_files(arrays: Arrays, tmp_path: Path) -> None:
    whole = saved(arrays, tmp_path).read_bytes()
    for size in (0, 5, 12, 2000, len(whole) - 1):
        path = tmp_path / f"{size}.safetensors"
        path.write_bytes(whole[:size])
        assert "truncated" in refusal(path)
    damaged = bytearray(whole)
    damaged[20:40] = bytes(20)
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    assert "damaged" in refusal(tmp_path / "damaged.safetensors")


def test_truncated_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((64, 64, 64))
    whole = (tmp_path / "w.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    assert "truncated or damaged" in refusal(tmp_path / "half.h5")
    assert "does not say which layer it is" in refusal(tmp_path / "w.h5")


def test_truncated_keras_archive(tmp_path: Path) -> None:
    network = make_network()
    path = export(network, network.init(0), ("a", "b", "c"), format="keras", folder=tmp_path)
    (tmp_path / "half.keras").write_bytes(path.read_bytes()[:5000])
    assert "truncated or damaged" in refusal(tmp_path / "half.keras")


@pytest.mark.parametrize("content", [b"hello, these are no weights", b"\x00" * 100])
def test_unknown_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(content)
    assert "not a file of weights" in refusal(tmp_path / "w.bin")


def test_missing_file_and_folder_without_weights(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.safetensors")
    assert "neither a run nor model.safetensors" in refusal(tmp_path)


def test_pytorch_file_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert "torch.load(sys.argv[1]" in refusal(tmp_path / "w.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": 1}))
    assert "which only PyTorch reads" in refusal(tmp_path / "old.pth")


class FakeTensor:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def is_floating_point(self) -> bool:
        return True

    def float(self) -> "FakeTensor":
        return self

    def numpy(self) -> np.ndarray:
        return self.array


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_state_dicts_are_unwrapped(
    wrapper: str | None, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {f"module.{name}": FakeTensor(array) for name, array in arrays.items()}
    loaded = state if wrapper is None else {wrapper: state, "epoch": 3}

    def load(path: Path, map_location: str, weights_only: bool) -> dict:
        assert weights_only
        return loaded

    fake = types.SimpleNamespace(load=load, Tensor=FakeTensor)
    monkeypatch.setitem(sys.modules, "torch", fake)
    (tmp_path / "w.pth").write_bytes(b"\x80\x02")
    assert read_container(tmp_path / "w.pth").arrays.keys() == arrays.keys()


def test_pytorch_file_that_holds_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> None:
        raise pickle.UnpicklingError("Weights only load failed")

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    (tmp_path / "w.pth").write_bytes(b"\x80\x02")
    assert "holds code beside weights" in refusal(tmp_path / "w.pth")


class Code:
    """Once unpickled, it has written a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.marker, "run")


def test_code_in_a_file_is_not_run_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    content = pickle.dumps({"conv1.weight": Code(tmp_path / "marker")})
    (tmp_path / "old.pth").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    for name in ("old.pth", "w.pth"):
        assert "which only PyTorch reads" in refusal(tmp_path / name)
    assert not (tmp_path / "marker").exists()
    pickle.loads(content)
    assert (tmp_path / "marker").exists(), "the file holds no code, so that nothing was tested"


def test_classes_of_the_same_name_are_told_apart(arrays: Arrays, tmp_path: Path) -> None:
    text = json.dumps({"class_names": ["crane", "tench", "crane"]})
    save_file(arrays, tmp_path / "w.safetensors", {"resnet_config": text})
    assert read_pretrained(tmp_path / "w.safetensors").class_names == ("crane (0)", "tench", "crane (2)")


def test_other_image_size_and_crop(arrays: Arrays, tmp_path: Path) -> None:
    path = saved(arrays, tmp_path)
    classifier = resnet.load_pretrained(path, image_size=64, crop=0.5)
    assert (classifier.image_size, classifier.crop) == (64, 0.5)
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    expected = (1 - np.array((0.485, 0.456, 0.406))) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(classifier.network.normalize(white)[0, 0, 0], expected, rtol=1e-5)
    assert (own := resnet.load_pretrained(path)).image_size == 224
    assert own.crop == 0.875
    with pytest.raises(UserError, match="at least 32 pixels"):
        resnet.load_pretrained(path, image_size=16)


def test_description_of_an_impossible_network(arrays: Arrays, tmp_path: Path) -> None:
    text = json.dumps({"model": {"stem": "9x9"}})
    save_file(arrays, tmp_path / "w.safetensors", {"resnet_config": text})
    assert "stem='9x9': expected one of 7x7, deep, 3x3" in refusal(tmp_path / "w.safetensors")


def test_nested_keras_model(tmp_path: Path) -> None:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("resnet50")
        names = [f"w{i}" for i in range(7)]
        group.attrs["weight_names"] = names
        for name in names:
            group[name] = np.zeros(3)
        file.attrs["layer_names"] = ["resnet50"]
    (tmp_path / "w.h5").write_bytes(content.getvalue())
    assert "a model inside a model" in refusal(tmp_path / "w.h5")
