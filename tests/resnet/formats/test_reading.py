"""What is wrong with a file of weights is told in one line, whatever it is."""

import io
import json
import pickle
import sys
import tarfile
import types
import warnings
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
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


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "net.backbone.", "resnet."])
def test_prefixes_of_wrappers_are_dropped(prefix: str, arrays: Arrays, tmp_path: Path) -> None:
    wrapped = {prefix + name: array for name, array in arrays.items()} | {"n_averaged": np.array(3)}
    assert read_pretrained(saved(wrapped, tmp_path)).weights.named().keys() == network_arrays().keys()


def test_a_prefix_is_dropped_that_a_few_names_lack(arrays: Arrays, tmp_path: Path) -> None:
    wrapped = {("" if name.startswith("fc.") else "backbone.") + name: x for name, x in arrays.items()}
    assert read_pretrained(saved(wrapped, tmp_path)).weights.named().keys() == network_arrays().keys()
    loss = {**wrapped, "loss.weight": np.ones(3, np.float32)}
    assert "left over: loss.weight;" in refusal(saved(loss, tmp_path))
    twice = {**wrapped, "backbone.fc.bias": wrapped["fc.bias"]}
    assert "not a residual network that is known here" in refusal(saved(twice, tmp_path))


def test_of_momentum_contrast_the_encoder_of_queries_is_taken_without_its_head(
    arrays: Arrays, tmp_path: Path
) -> None:
    encoders = {f"module.encoder_{q}.{name}": x for name, x in arrays.items() for q in "kq"}
    encoders["module.queue"] = np.zeros((8, 16), np.float32)
    encoders["module.encoder_q.conv1.weight"] = arrays["conv1.weight"] + 1
    pretrained = read_pretrained(saved(encoders, tmp_path))
    assert pretrained.class_names == ()
    kernel = network_arrays()["stem_conv.kernel"]
    np.testing.assert_array_equal(pretrained.weights.named()["stem_conv.kernel"], kernel + 1)


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


def test_our_keras_archive_with_an_edited_graph_is_refused(tmp_path: Path) -> None:
    network = make_network()
    path = export(network, network.init(0), ("a", "b", "c"), format="keras", folder=tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert read_pretrained(path).class_names == ("a", "b", "c")
    members["config.json"] = members["config.json"].replace(b'"linear"', b'"sigmoid"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "is not the graph that was exported" in refusal(path)


def test_truncated_keras_archive(tmp_path: Path) -> None:
    network = make_network()
    path = export(network, network.init(0), ("a", "b", "c"), format="keras", folder=tmp_path)
    (tmp_path / "half.keras").write_bytes(path.read_bytes()[:5000])
    assert "truncated or damaged" in refusal(tmp_path / "half.keras")


def test_an_address_beyond_reason_in_a_keras_archive(tmp_path: Path) -> None:
    network = make_network()
    path = export(network, network.init(0), ("a", "b", "c"), format="keras", folder=tmp_path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "edited.keras", "w") as edited:
        for name in archive.namelist():
            content = bytearray(archive.read(name))
            if name.endswith(".h5"):
                content[48] = 127  # the highest byte of an address in the superblock
            edited.writestr(name, bytes(content))
    assert "truncated or damaged" in refusal(tmp_path / "edited.keras")


@pytest.mark.parametrize("content", [b"hello, these are no weights", b"\x00" * 100])
def test_unknown_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(content)
    assert "not a file of weights" in refusal(tmp_path / "w.bin")


def test_a_file_that_the_disk_does_not_give_back(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"truncated or damaged \(OSError: .*Input/output error\)"):
        read_pretrained(tmp_path / "weights.safetensors")


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


def fake_torch(monkeypatch: pytest.MonkeyPatch, load: Callable[..., object]) -> None:
    """Puts a module in place of PyTorch, whose tensors are NumPy's arrays; tests/peers have the real one."""

    def load_safely(path: Path, map_location: str, weights_only: bool) -> object:
        assert weights_only
        return load()

    serialization = types.SimpleNamespace(safe_globals=lambda classes: nullcontext())
    fake = types.SimpleNamespace(load=load_safely, Tensor=np.ndarray, serialization=serialization)
    monkeypatch.setitem(sys.modules, "torch", fake)


def pytorch_file(folder: Path) -> Path:
    (folder / "w.pth").write_bytes(b"\x80\x02" + bytes(10**6))
    return folder / "w.pth"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {"model": state}, "class_weights": np.ones(3)},
        lambda state: {"weights": state, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}},
        lambda state: [state, 3],
        lambda state: {"module.encoder": state, 0: np.ones(3), "n_averaged": np.ones(())},
    ],
)
def test_state_dicts_are_unwrapped(
    wrap: Callable[[Arrays], object], arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {f"module.{name}": array for name, array in arrays.items()}
    fake_torch(monkeypatch, lambda: wrap(state))
    assert read_pretrained(pytorch_file(tmp_path)).weights.named().keys() == network_arrays().keys()


@pytest.mark.parametrize(
    ("raw", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model_state_dict", "ema")],
)
def test_the_average_in_a_checkpoint_is_taken_rather_than_the_raw_weights(
    raw: str, average: str, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged = {**arrays, "conv1.weight": arrays["conv1.weight"] + 1}
    fake_torch(monkeypatch, lambda: {raw: arrays, average: averaged})
    kernel = read_pretrained(pytorch_file(tmp_path)).weights.named()["stem_conv.kernel"]
    np.testing.assert_array_equal(kernel, network_arrays()["stem_conv.kernel"] + 1)


def test_an_average_of_parameters_alone_is_not_taken(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {name: array + 1 for name, array in arrays.items() if "running" not in name}
    fake_torch(monkeypatch, lambda: {"model": arrays, "ema": {"decay": 0.99, "shadow": parameters}})
    kernel = read_pretrained(pytorch_file(tmp_path)).weights.named()["stem_conv.kernel"]
    np.testing.assert_array_equal(kernel, network_arrays()["stem_conv.kernel"])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (np.ones(3), "holds a single array without a name; save the weights alone: torch.save("),
        ({}, "holds no arrays by name (a dictionary of nothing); save the weights alone"),
        ({0: np.ones(3), 1: np.ones(3)}, "holds no arrays by name (a dictionary of 0, 1); save the weights"),
        ([1, 2], "holds no arrays by name (a list of 2)"),
        (3.5, "holds no arrays by name (a float)"),
        (
            {"a": {"w": np.ones(3)}, "b": {"w": np.ones(3)}},
            "holds several sets of weights (a, b), expected one",
        ),
        (
            {"conv1.weight": np.broadcast_to(np.float32(0), (10**6, 10**6))},
            "declares arrays of 4,000,000,000,000",
        ),
        ({"fc._packed_params._packed_params": (), "bn1.weight": np.ones(3)}, "_packed_params is quantized"),
    ],
)
def test_files_of_pytorch_without_a_state_dict(
    content: object, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(monkeypatch, lambda: content)
    assert line in refusal(pytorch_file(tmp_path))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            pickle.UnpicklingError("Try weights_only=False. Unsupported global: GLOBAL models.Net was not"),
            "holds code beside weights (models.Net), and none of it was run; expected tensors alone",
        ),
        (pickle.UnpicklingError("Try weights_only=False: pickle data was truncated"), "truncated or damaged"),
        (EOFError(), "truncated or damaged (EOFError"),
    ],
)
def test_pytorch_file_that_holds_code_or_is_damaged(
    error: Exception,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    def load() -> None:
        warnings.warn("Detected pickle protocol 130 in the checkpoint", stacklevel=1)
        raise error

    fake_torch(monkeypatch, load)
    message = refusal(pytorch_file(tmp_path))
    assert not recwarn.list
    assert line in message
    assert "weights_only" not in message


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        (
            ["m/data.pkl", "m/constants.pkl"],
            "is a TorchScript program, not weights; load it with torch.jit.load",
        ),
        (["m/models/model.json"], "is a program of torch.export, not weights"),
        (["word/document.xml"], "is a zip archive, but none of torch.save"),
    ],
)
def test_zip_files_of_other_kinds(
    entries: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(monkeypatch, dict)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for entry in entries:
            archive.writestr(entry, b"")
    assert line in refusal(tmp_path / "w.pth")


def test_a_zip_file_that_unpacks_to_far_more_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(monkeypatch, dict)
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/data/0", bytes(3 * 10**6))
    assert "unpacks to 3,000,000 bytes from" in refusal(tmp_path / "w.pth")


def test_a_tar_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pth.tar", "w") as archive:
        archive.add(__file__, "storages")
    assert "is a tar archive" in refusal(tmp_path / "w.pth.tar")


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
    config = {"architecture": "resnet18", "label_names": ["crane", "tench", "crane"], "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_pretrained(saved(arrays, tmp_path)).class_names == ("crane (0)", "tench", "crane (2)")


def test_names_longer_than_those_of_any_network_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    path = saved({**arrays, "a." * 2000 + "weight": np.zeros(3, np.float32)}, tmp_path)
    with pytest.raises(UserError, match=r"has a name of 4,006 characters, a\.a\.a"):
        resnet.load_pretrained(path)


def test_more_arrays_than_any_network_has_are_refused(tmp_path: Path) -> None:
    path = saved({f"a{i}.weight": np.zeros(0, np.float32) for i in range(20_001)}, tmp_path)
    assert "holds 20,001 arrays; expected those of one network, at most 20,000" in refusal(path)


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


@pytest.mark.parametrize(
    ("description", "line"),
    [
        ([], "its resnet_config: [] is not of type 'object'"),
        ("text", "'text' is not of type 'object'"),
        (None, "its resnet_config: None is not of type 'object'"),
        ({"model": []}, "model: [] is not of type 'object'"),
        ({"model": {"depth": "18"}}, "model.depth: '18' is not of type 'integer'"),
        ({"model": {"depth": 34}}, "does not fit ResNet-34"),
        ({"model": {"colour": 1}}, "('colour' was unexpected)"),
        ({"model": {"width": 50_000}}, "names a network of"),
        ({"data": {"crop": "0.9"}}, "data.crop: '0.9' is not of type 'number'"),
        ({"data": {"crop": 1e-310, "image_size": 224}}, "data.crop: 1e-310 is less than the minimum of 0.05"),
        ({"data": {"image_size": 10**400}}, "is greater than the maximum of 2048"),
        ({"data": {"image_size": [224]}}, "data.image_size: [224] is not of type 'integer'"),
        ({"data": {"mean": [0.5, 0.5]}}, "data.mean: [0.5, 0.5] is too short"),
        ({"data": {"std": [0.5, 1e-300, 0.5]}}, "std=(0.5, 1e-300, 0.5): out of range"),
        ({"data": {"mean": [0.5, 1e300, 0.5]}}, "mean=(0.5, 1e+300, 0.5): out of range"),
        ({"class_names": ["a", "a", "b"]}, "class_names: ['a', 'a', 'b'] has non-unique elements"),
        ({"class_names": ["a", "b"]}, "its head has 3 outputs, but its description 2 classes"),
        ({"class_names": {"0": "a"}}, "is not of type 'array'"),
        ({"colour": 1}, "('colour' was unexpected)"),
        ({"format": "gguf"}, "format: 'safetensors' was expected"),
    ],
)
def test_descriptions_of_wrong_types(description: object, line: str, arrays: Arrays, tmp_path: Path) -> None:
    save_file(arrays, tmp_path / "w.safetensors", {"resnet_config": json.dumps(description)})
    assert line in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "its resnet_config: is not JSON"),
        ('{"data": {"crop": ' + "9" * 5000 + "}}", "its resnet_config: is not JSON"),
        ("[" * 100_000, "has too many brackets inside each other"),
    ],
)
def test_descriptions_that_are_no_json(text: str, line: str, arrays: Arrays, tmp_path: Path) -> None:
    save_file(arrays, tmp_path / "w.safetensors", {"resnet_config": text})
    assert line in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "array", "line"),
    [
        ("layer4.99999.conv1.weight", np.zeros((1, 1, 1, 1)), "left over: layer4.99999.conv1.weight"),
        (f"layer4.{'9' * 5000}.conv1.weight", np.zeros((1, 1, 1, 1)), "has a name of 5,020 characters"),
        ("layer4.9998.conv1.weight", np.zeros((1, 1, 1, 1)), "does not fit ResNet-200"),
        ("fc.bias", np.zeros(4 * 10**6, np.float16), "names a network of"),
        ("layer1.0.conv1.weight", np.zeros((0, 4, 3, 3)), "layer1.0.conv1.weight (shape [0, 4, 3, 3])"),
        ("weight", np.zeros(3), "left over: weight"),
        ("fc.weight", np.full((3, 32), 1e300), "fc.weight (not finite)"),
        ("fc.weight", np.zeros((3, 32), np.complex64), "fc.weight (complex64)"),
    ],
)
def test_arrays_beyond_reason(
    name: str, array: np.ndarray, line: str, arrays: Arrays, tmp_path: Path
) -> None:
    assert line in refusal(saved({**arrays, name: array}, tmp_path))


def test_names_without_dots_in_our_own_format(tmp_path: Path) -> None:
    save_file(
        {"weight": np.ones(3)}, tmp_path / "w.safetensors", {"resnet_config": '{"format": "safetensors"}'}
    )
    assert "left over: weight" in refusal(tmp_path / "w.safetensors")


def test_the_odd_name_among_many_is_shown(arrays: Arrays, tmp_path: Path) -> None:
    many = {f"layer1.0.extra.{i}.weight": np.zeros(3, np.float32) for i in range(50)}
    message = refusal(saved({**arrays, **many, "zoom.bias": np.zeros(3, np.float32)}, tmp_path))
    assert "left over: zoom.bias, layer1.0.extra.0.weight" in message
    assert "and 43 more" in message


# Files in several parts


def write_shards(arrays: Arrays, folder: Path, **changes: object) -> Path:
    weight_map: dict[str, object] = {}
    for i, part in enumerate((list(arrays)[:50], list(arrays)[50:])):
        save_file({name: arrays[name] for name in part}, folder / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map | changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_by_their_index(arrays: Arrays, tmp_path: Path) -> None:
    folder = write_shards(arrays, tmp_path)
    for path in (folder, folder / "model.safetensors.index.json"):
        named = read_pretrained(path).weights.named()
        for name, array in network_arrays().items():
            np.testing.assert_array_equal(named[name], array)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "../model-0.safetensors",
            "names the file '../model-0.safetensors'; expected files in its own folder",
        ),
        ("/etc/passwd", "names the file '/etc/passwd'"),
        ("model-7.safetensors", "model-7.safetensors: no such file"),
        ("model-1.safetensors", "extra is not in model-1.safetensors, nor in another file"),
        (7, "weight_map.extra: 7 is not of type 'string'"),
    ],
)
def test_indices_that_name_what_is_not_there(file: object, line: str, arrays: Arrays, tmp_path: Path) -> None:
    assert line in refusal(write_shards(arrays, tmp_path, extra=file))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000])
def test_damaged_indices(text: str, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    assert "pytorch_model.bin.index.json: " in refusal(tmp_path)


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
