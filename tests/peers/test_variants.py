"""Files and descriptions as PyTorch, timm and transformers write them: their answer here, or a line."""

import argparse
import json
import pathlib
import subprocess
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from resnet import load_pretrained
from resnet.errors import UserError
from tests.peers import torch_networks
from tests.peers.torch_networks import timm
from tests.resnet.pictures import photograph

CLASSES = 3
PICTURE = Image.fromarray(photograph(150, 100))
Answer = Callable[[], np.ndarray]  # the peer's probabilities of PICTURE


def softmax(logits: torch.Tensor) -> np.ndarray:
    return logits.softmax(-1)[0].detach().numpy()


def narrow(model: Any) -> Any:
    """Returns `model` with random weights and statistics, and a head that tells pictures apart."""
    return torch_networks.TorchPeer(model, {}).model


# PyTorch: what torch.save was given, and the answer of the network or the line.


@cache
def resnet18() -> torch.nn.Module:
    return narrow(torch_networks.narrow_timm_peer(8, CLASSES).model)


@cache
def answer_of_resnet18() -> np.ndarray:
    data = {"input_size": (3, 64, 64), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    transform = timm.data.create_transform(**timm.data.resolve_data_config(data | {"crop_pct": 1.0}))
    return softmax(resnet18()(transform(PICTURE)[None]))


class Options:
    """An object of somebody's own."""


class Subclass(torch.Tensor):
    """A tensor of somebody's own."""


def state() -> dict[str, Any]:
    return dict(resnet18().state_dict())


def prefixed(prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state().items()}


def averaged() -> dict[str, Any]:
    model = torch.optim.swa_utils.AveragedModel(resnet18())
    model.update_parameters(resnet18())
    return model.state_dict()


def changed(**arrays: Any) -> dict[str, Any]:
    return state() | {name.replace("__", "."): array for name, array in arrays.items()}


def expanded() -> torch.Tensor:
    return torch.zeros(1).expand(10**5, 10**5)


SAVED: dict[str, tuple[Callable[[], Any], str | None]] = {
    "state_dict()": (state, None),
    "state_dict(keep_vars=True)": (lambda: resnet18().state_dict(keep_vars=True), None),
    "AveragedModel": (averaged, None),
    "DataParallel": (lambda: torch.nn.DataParallel(resnet18()).state_dict(), None),
    "torch.compile": (lambda: torch.compile(resnet18()).state_dict(), None),
    "with optimizer, in state_dict": (
        lambda: {"state_dict": state(), "optimizer": torch.optim.Adam(resnet18().parameters()).state_dict()},
        None,
    ),
    "timm's checkpoint with an average": (
        lambda: {"state_dict": changed(fc__bias=torch.arange(3.0)), "state_dict_ema": state()},
        None,
    ),
    "torchvision's checkpoint with an average": (
        lambda: {"model": changed(fc__bias=torch.arange(3.0)), "model_ema": averaged()},
        None,
    ),
    "Lightning's checkpoint": (
        lambda: {"epoch": 3, "state_dict": prefixed("net."), "hyper_parameters": {"lr": 0.1}},
        None,
    ),
    "nested: model, module.backbone.": (
        lambda: {"model": {"state_dict": prefixed("module.backbone.")}},
        None,
    ),
    "argparse.Namespace beside": (
        lambda: {"model": state(), "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"))},
        None,
    ),
    "SimpleNamespace beside": (lambda: {"model": state(), "args": types.SimpleNamespace(lr=0.1)}, None),
    "NumPy scalars beside": (lambda: {"model": state(), "best": np.float64(0.9)}, None),
    "arrays of NumPy": (lambda: {name: tensor.numpy() for name, tensor in state().items()}, None),
    "float64": (lambda: {n: t.double() if t.ndim else t for n, t in state().items()}, None),
    "sparse": (lambda: changed(conv1__weight=state()["conv1.weight"].to_sparse()), None),
    "a list of state dicts": (lambda: [state(), {"epoch": 3}], None),
    "integer keys beside": (lambda: {0: torch.zeros(3), **state()}, None),
    "integer keys alone": (
        lambda: dict(enumerate(state().values())),
        "holds no arrays by name (a dictionary of 0",
    ),
    "a list of tensors": (lambda: list(state().values()), "holds no arrays by name (a list of 128)"),
    "a tensor": (lambda: torch.zeros(3), "holds a single array without a name"),
    "the model itself": (
        lambda: torch.nn.Conv2d(3, 8, 7),
        "holds code beside weights (torch.nn.modules.conv.Conv2d)",
    ),
    "an object beside": (
        lambda: {"model": state(), "args": Options()},
        f"holds code beside weights ({__name__}.Options)",
    ),
    "a subclass of tensors": (
        lambda: changed(fc__bias=torch.zeros(3).as_subclass(Subclass)),
        f"holds code beside weights ({__name__}.Subclass)",
    ),
    "quantized": (
        lambda: changed(fc__weight=torch.quantize_per_tensor(state()["fc.weight"], 0.1, 0, torch.qint8)),
        "fc.weight is quantized",
    ),
    "quantized, packed": (
        lambda: torch.ao.quantization.quantize_dynamic(resnet18(), {torch.nn.Linear}).state_dict(),
        "fc._packed_params.dtype is quantized",
    ),
    "complex": (lambda: changed(fc__bias=torch.zeros(3, dtype=torch.complex64)), "fc.bias (complex64)"),
    "without values": (
        lambda: changed(fc__bias=torch.zeros(3, device="meta")),
        "fc.bias is on the device meta",
    ),
    "one value, ten billion times": (lambda: changed(fc__weight=expanded()), "declares arrays of 40,"),
    "two networks": (
        lambda: {"student": state(), "teacher": state()},
        "holds several sets of weights (student, teacher)",
    ),
}


def ours(path: Path, **changes: Any) -> np.ndarray:
    """Returns the probabilities of PICTURE, computed operation by operation, as compiling takes longer."""
    classifier = load_pretrained(path, compute_dtype="float32", convolution="lax", **changes)
    classifier.check_head()
    network, images = classifier.network, classifier.prepare(PICTURE)[None]
    logits, _ = network.merge(classifier.weights)(network.normalize(jnp.asarray(images)), train=False)
    return np.asarray(jax.nn.softmax(logits))[0]


def add_row(
    table: list[dict[str, object]], variant: str, peer: np.ndarray | str, found: np.ndarray | str
) -> None:
    shown = [x if isinstance(x, str) else " ".join(f"{p:.4f}" for p in x) for x in (peer, found)]
    table.append({"variant": variant, "peer": shown[0], "ours, or the line": shown[1]})


def line_of(path: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        ours(path, **changes)
    message = str(caught.value)
    assert "weights_only=False" not in message
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("variant", SAVED)
def test_files_of_torch_save(variant: str, zipped: bool, tmp_path: Path, variants: list) -> None:
    make, line = SAVED[variant]
    try:
        torch.save(make(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    except NotImplementedError:
        pytest.skip("torch.save has no such file")
    name = f"torch.save, {variant}" + ("" if zipped else ", not zipped")
    if line is None:
        expected, found = answer_of_resnet18(), ours(tmp_path / "w.pth", image_size=64, crop=1.0)
        add_row(variants, name, expected, found)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        found_line = line_of(tmp_path / "w.pth")
        add_row(variants, name, "-", found_line)
        assert line in found_line


def test_torchscript_and_exported_programs(tmp_path: Path, variants: list) -> None:
    model, example = torch.nn.Linear(2, 3), torch.zeros(1, 2)
    torch.jit.trace(model, example).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(model, (example,)), tmp_path / "program.pt2")
    for file, line in (
        ("script.pt", "is a TorchScript program"),
        ("program.pt2", "is a program of torch.export"),
    ):
        found = line_of(tmp_path / file)
        add_row(variants, file, "-", found)
        assert line in found


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_of_pytorch(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(
        {"w": torch.ones(30), "args": argparse.Namespace(x=1)}, path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    for size in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            load_pretrained(path)
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        state,
        lambda: {"state_dict": {"model": prefixed("module.")}},
        lambda: dict(resnet18().state_dict(keep_vars=True)),
        lambda: changed(bn1__bias=state()["bn1.weight"]),
    ],
)
def test_the_conversion_without_pytorch(
    content: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "its weights.pth"
    torch.save(content(), path)
    expected = ours(path, image_size=64)
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "torch", None)
        command = line_of(path).partition("convert the file where it is: ")[2]
    command = command.replace("python", sys.executable, 1)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(ours(tmp_path / "weights.safetensors", image_size=64), expected)


# timm: what create_model was given, and changes to the config.json that save_for_hf wrote.

TIMM: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "resnet18": ({}, {}, None),
    "resnet18.tv_in1k, bilinear": ({"model_name": "resnet18.tv_in1k"}, {}, None),
    "resnet18, squashed": ({}, {"crop_mode": "squash"}, None),
    "resnet18, lanczos": ({}, {"interpolation": "lanczos"}, None),
    "resnet18, another mean": ({}, {"mean": [0.1, 0.2, 0.3], "std": [1.0, 0.5, 0.25]}, None),
    "resnet18, another crop": ({}, {"crop_pct": 0.6, "input_size": [3, 96, 96]}, None),
    "resnet18, drop_path_rate": ({"drop_path_rate": 0.1}, {}, None),
    "resnetblur18": ({"model_name": "resnetblur18"}, {}, "architecture: 'resnetblur18' is not one of"),
    "global_pool=max": ({"global_pool": "max"}, {}, "global_pool: 'max' is not one of"),
    "act_layer=silu": ({"act_layer": "silu"}, {}, "model_args.act_layer: 'silu' is not one of"),
    "output_stride=8": ({"output_stride": 8}, {}, "model_args.output_stride: 32 was expected"),
    "resnet18d": ({"model_name": "resnet18d"}, {}, "architecture: 'resnet18d' is not one of"),
    "seresnet18": ({"model_name": "seresnet18"}, {}, "architecture: 'seresnet18' is not one of"),
    "resnet18, border": ({}, {"crop_mode": "border"}, "crop_mode: 'border' is not one of"),
    "resnet18, nearest": ({}, {"interpolation": "nearest"}, "interpolation: 'nearest' is not one of"),
}


@pytest.mark.parametrize("variant", TIMM)
def test_folders_of_timm(variant: str, tmp_path: Path, variants: list) -> None:
    arguments, changes, line = TIMM[variant]
    model = narrow(timm.create_model(**{"model_name": "resnet18", "num_classes": CLASSES} | arguments))
    timm.models._hub.save_for_hf(model, tmp_path, safe_serialization=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 64, 64]} | changes
    path.write_text(json.dumps(config))
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"])
    )
    expected = softmax(model(transform(PICTURE)[None]))
    compare(f"timm, {variant}", tmp_path, expected, line, variants)


def compare(variant: str, folder: Path, expected: np.ndarray, line: str | None, variants: list) -> None:
    """Compares our answer, or our line, with the peer's answer."""
    if line is None:
        found = ours(folder)
        add_row(variants, variant, expected, found)
        np.testing.assert_allclose(found, expected, atol=5e-3)
    else:
        found_line = line_of(folder).replace(f"{folder}/", "")
        add_row(variants, variant, expected, found_line)
        assert line in found_line


@pytest.mark.parametrize(
    "name", timm.list_models(["resnet*", "resnext*", "wide_resnet*"], pretrained=True, module="resnet")
)
def test_every_plain_network_of_timm_is_known(name: str, tmp_path: Path) -> None:
    from resnet.formats.timm_config import CONFIG, PLAIN
    from resnet.json_files import check_json

    for tag in timm.list_pretrained(f"{name}.*"):
        pretrained = timm.get_pretrained_cfg(tag).to_dict()
        config = {
            "architecture": name,
            "num_classes": 1000,
            "pretrained_cfg": json.loads(json.dumps(pretrained)),
        }
        if name in PLAIN:
            check_json(config, CONFIG, "config.json")
        else:
            with pytest.raises(UserError):
                check_json(config, CONFIG, "config.json")


# transformers: changes to its ResNetConfig, its image processor, and the answer or the line.


class HuggingFace(NamedTuple):
    """A folder of transformers': its configuration, its processor, and the line if it is refused."""

    config: dict[str, Any] = {}  # noqa: RUF012 (nothing changes it)
    processor: Any = None
    line: str | None = None


ConvNext, ViT, Bit = (getattr(transformers, f"{name}ImageProcessor") for name in ("ConvNext", "ViT", "Bit"))
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BOTTLENECKS = {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [32, 64, 128, 256]}
HUGGINGFACE: dict[str, HuggingFace] = {
    "as it is": HuggingFace(),
    "bottlenecks": HuggingFace(BOTTLENECKS),
    "downsample_in_bottleneck": HuggingFace(BOTTLENECKS | {"downsample_in_bottleneck": True}),
    "size=384 and more": HuggingFace(processor=ConvNext(size=400, image_mean=MEAN)),
    "crop_pct=0.64": HuggingFace(processor=ConvNext(size={"shortest_edge": 64}, crop_pct=0.64)),
    "resample=bilinear": HuggingFace(processor=ConvNext(size=64, resample=2)),
    "resample=lanczos": HuggingFace(processor=ConvNext(size=64, resample=1)),
    "ViTImageProcessor, one number": HuggingFace(processor=ViT(size=64)),
    "ViTImageProcessor, height and width": HuggingFace(processor=ViT(size={"height": 64, "width": 64})),
    "ViTImageProcessor, then a crop": HuggingFace(processor=ViT(size=80, do_center_crop=True, crop_size=64)),
    "BitImageProcessor": HuggingFace(processor=Bit(size=80, crop_size=64)),
    "do_rescale=false": HuggingFace(
        processor=Bit(size=80, crop_size=64, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3)
    ),
    "do_normalize=false": HuggingFace(processor=Bit(size=80, crop_size=64, do_normalize=False)),
    "rescale_factor=1/127.5": HuggingFace(processor=Bit(size=80, crop_size=64, rescale_factor=1 / 127.5)),
    "downsample_in_first_stage": HuggingFace(
        BOTTLENECKS | {"downsample_in_first_stage": True},
        line="downsample_in_first_stage: False was expected",
    ),
    "hidden_act=gelu": HuggingFace({"hidden_act": "gelu"}, line="hidden_act: 'relu' was expected"),
    "multi-label": HuggingFace(
        {"problem_type": "multi_label_classification"}, line="problem_type: 'multi_label_classification'"
    ),
    "one label": HuggingFace({"num_labels": 1}, line="a head of one output, whose softmax is always 1"),
    "no crop": HuggingFace(
        processor=Bit(size=64, do_center_crop=False),
        line="do_center_crop=false: pictures would keep their shape",
    ),
    "do_resize=false": HuggingFace(
        processor=Bit(do_resize=False, crop_size=64), line="do_resize: False is not one of"
    ),
    "resample=nearest": HuggingFace(
        processor=ConvNext(size=64, resample=0), line="resample: 0 is not one of"
    ),
}


@pytest.mark.parametrize("variant", HUGGINGFACE)
def test_folders_of_transformers(variant: str, tmp_path: Path, variants: list) -> None:
    changes, processor, line = HUGGINGFACE[variant]
    sizes = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 32, 64],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    }
    config = transformers.ResNetConfig(**{"num_labels": CLASSES} | sizes | changes)
    model = narrow(transformers.ResNetForImageClassification(config))
    config.save_pretrained(tmp_path)
    processor = processor or ConvNext(size=64, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(tmp_path)
    reread = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    inputs = reread(PICTURE, return_tensors="pt")
    with torch.no_grad():
        scale = 2 / model(**inputs).logits.abs().max()  # so that small differences show in the softmax
        for parameter in model.classifier.parameters():
            parameter *= scale
    model.save_pretrained(tmp_path)
    expected = softmax(model(**inputs).logits)
    compare(f"transformers, {variant}", tmp_path, expected, line, variants)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("headless", [False, True])
def test_shards_and_networks_without_a_head(shards: bool, headless: bool, tmp_path: Path) -> None:
    peer = torch_networks.huggingface_peer(18, classes=CLASSES, width=8)
    model = peer.model.resnet if headless else peer.model
    model.save_pretrained(tmp_path, max_shard_size="200KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    classifier = load_pretrained(tmp_path, compute_dtype="float32", image_size=64)
    pixels = classifier.network.normalize(classifier.prepare(PICTURE)[None])
    expected = peer.run(np.array(pixels))
    features = classifier.features(classifier.prepare(PICTURE)[None], "stage4", pool="none")
    np.testing.assert_allclose(features, expected["stage4"], rtol=1e-3, atol=1e-3)
    assert bool(classifier.class_names) != headless


def test_weights_in_a_safetensors_file_of_pytorch_in_bfloat16(tmp_path: Path) -> None:
    save_file({n: t.bfloat16() if t.ndim else t for n, t in state().items()}, tmp_path / "w.safetensors")
    found = ours(tmp_path / "w.safetensors", image_size=64, crop=1.0)
    np.testing.assert_allclose(found, answer_of_resnet18(), atol=0.05)
    save_file(changed(fc__bias=torch.zeros(3).to(torch.float8_e4m3fn)), tmp_path / "w.safetensors")
    assert "fc.bias holds numbers of the kind F8_E4M3" in line_of(tmp_path / "w.safetensors")
