"""What Hugging Face's and timm's descriptions say of the weights beside them is done here, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from resnet.errors import UserError
from resnet.formats import huggingface, timm_config, torchvision
from resnet.formats.export import export
from resnet.formats.names import Arrays, Format
from resnet.pretrained import Pretrained, read_pretrained
from tests.resnet.networks import make_network

LABELS = {"0": "fist", "1": "palm", "2": "point"}
HUGGINGFACE = {
    "model_type": "resnet",
    "architectures": ["ResNetForImageClassification"],
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [4, 8, 16, 32],
    "embedding_size": 4,
    "layer_type": "basic",
    "id2label": LABELS,
}
TIMM: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 3,
    "num_features": 32,
    "global_pool": "avg",
    "model_args": {"num_classes": 3, "in_chans": 3, "global_pool": "avg"},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "crop_pct": 0.95,
        "first_conv": "conv1",
        "classifier": "fc",
    },
}
MEAN = [0.1, 0.2, 0.3]


def arrays_of(format: Format) -> Arrays:
    arrays = {}
    for name, array in make_network().init(0).named().items():
        foreign, transform = format.foreign_name(name)
        arrays[foreign] = np.ascontiguousarray(transform.to_foreign(array))
    return arrays


@pytest.fixture(scope="module")
def huggingface_arrays() -> Arrays:
    return arrays_of(huggingface.FORMAT)


@pytest.fixture(scope="module")
def timm_arrays() -> Arrays:
    return arrays_of(torchvision.FORMAT)


@pytest.fixture
def read_huggingface(huggingface_arrays: Arrays, tmp_path: Path) -> Callable[..., Pretrained]:
    """Reads a folder with changes to its `config.json`, and with a `preprocessor_config.json`."""

    def read(changes: Any = None, preprocessor: object = None) -> Pretrained:
        save_file(huggingface_arrays, tmp_path / "model.safetensors")
        config = changes if isinstance(changes, list) else HUGGINGFACE | (changes or {})
        (tmp_path / "config.json").write_text(json.dumps(config))
        if preprocessor is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return read_pretrained(tmp_path)

    return read


@pytest.fixture
def read_timm(timm_arrays: Arrays, tmp_path: Path) -> Callable[..., Pretrained]:
    """Reads a folder of timm's with changes to its `config.json` and to the `pretrained_cfg` in it."""

    def read(pretrained: object = None, **changes: object) -> Pretrained:
        save_file(timm_arrays, tmp_path / "model.safetensors")
        if isinstance(pretrained, dict):
            pretrained = TIMM["pretrained_cfg"] | pretrained
        config = TIMM | ({} if pretrained is None else {"pretrained_cfg": pretrained}) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_pretrained(tmp_path)

    return read


def refusal(read: Callable[..., Pretrained], *arguments: object, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Hugging Face, config.json


def test_labels_of_transformers_are_the_class_names(read_huggingface: Callable[..., Pretrained]) -> None:
    assert read_huggingface().class_names == ("fist", "palm", "point")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ([], "config.json: [] is not of type 'object'"),
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage: False was expected"),
        ({"downsample_in_bottleneck": 1}, "downsample_in_bottleneck: 1 is not of type 'boolean'"),
        ({"hidden_act": "gelu"}, "hidden_act: 'relu' was expected"),
        (
            {"layer_type": "bottleneck"},
            "depths=[2, 2, 2, 2]: no such network here; expected one of [3, 4, 6, 3]",
        ),
        ({"depths": [3, 4, 6, 3]}, "does not fit ResNet-34 of huggingface; missing: "),
        ({"depths": [2, 2, 2, 3]}, "depths=[2, 2, 2, 3]: no such network here"),
        ({"hidden_sizes": [4, 8, 16, 64]}, "hidden_sizes=[4, 8, 16, 64]: expected each to be twice"),
        ({"hidden_sizes": [8, 16, 32, 64]}, "expected [8] in our layout"),
        ({"embedding_size": 8}, "does not fit ResNet-18 of huggingface; "),
        ({"num_channels": 1}, "num_channels: 3 was expected"),
        (
            {"problem_type": "multi_label_classification"},
            "problem_type: 'multi_label_classification' is not one",
        ),
        ({"problem_type": "regression"}, "problem_type: 'regression' is not one of"),
        ({"id2label": {"0": "a", "1": "b"}}, "its head has 3 outputs, but its description 2 classes"),
        ({"num_labels": 7}, "num_labels=7, but id2label has 3 names"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "id2label: has gaps in its numbers"),
        ({"id2label": {"0": "a", "00": "b", "1": "c"}}, "id2label: has gaps in its numbers, or one twice"),
        ({"id2label": ["a", "b", "c"]}, "id2label: "),
        ({"id2label": {"a": "0"}}, "id2label"),
        ({"id2label": {"9" * 5000: "a"}}, "id2label"),
        ({"id2label": {"0": 1}}, "id2label"),
        ({"id2label": None, "num_labels": 7}, "but its description 7 classes"),
        ({"model_type": "bit"}, "model_type: 'resnet' was expected"),
        ({"quantization_config": {}}, "('quantization_config' was unexpected)"),
        ({"dropout": 0.1}, "('dropout' was unexpected)"),
    ],
)
def test_configs_of_transformers_that_are_refused(
    changes: object, line: str, read_huggingface: Callable[..., Pretrained]
) -> None:
    assert line in refusal(read_huggingface, changes)


def test_stride_in_bottlenecks() -> None:
    sizes = {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [16, 32, 64, 128]}
    for strides, variant in ((True, "v1"), (False, "v1.5")):
        config = HUGGINGFACE | sizes | {"downsample_in_bottleneck": strides}
        model = huggingface.fields_of_config(config, "config.json")["model"]
        assert model == {"depth": 50, "width": 4, "stem_width": 0, "variant": variant}


# Hugging Face, preprocessor_config.json


VIT, BIT, CONVNEXT = (
    {"image_processor_type": f"{name}ImageProcessor", "image_mean": MEAN}
    for name in ("ViT", "Bit", "ConvNext")
)


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        # As microsoft/resnet-50 has it.
        (
            {
                "feature_extractor_type": "ConvNextFeatureExtractor",
                "size": 224,
                "crop_pct": 0.9,
                "resample": 3,
            },
            {"image_size": 224, "fit": "crop", "crop": 0.9, "resample": "bicubic", "mean": (0.5,) * 3},
        ),
        ({}, {"image_size": 384, "fit": "stretch", "crop": 1.0, "std": (0.5,) * 3}),
        (
            CONVNEXT | {"size": {"shortest_edge": 160}},
            {"image_size": 160, "crop": 0.875, "mean": tuple(MEAN)},
        ),
        (CONVNEXT | {"size": 64, "crop_pct": 64 / 93}, {"image_size": 64, "crop": 64 / 92}),
        (VIT | {"size": 96}, {"image_size": 96, "fit": "stretch", "crop": 1.0, "resample": "bilinear"}),
        (VIT | {"size": {"height": 96, "width": 96}}, {"image_size": 96, "fit": "stretch", "crop": 1.0}),
        (
            VIT | {"size": 128, "do_center_crop": True, "crop_size": 96},
            {"image_size": 96, "fit": "stretch", "crop": 0.75},
        ),
        (BIT | {"size": 256}, {"image_size": 224, "fit": "crop", "crop": 0.875, "resample": "bicubic"}),
        (BIT | {"size": 224.0}, {"image_size": 224, "crop": 1.0}),
        (BIT | {"size": {"shortest_edge": 224}, "resample": 1}, {"crop": 1.0, "resample": "lanczos"}),
        (BIT | {"do_normalize": False}, {"mean": (0, 0, 0), "std": (1, 1, 1)}),
        (BIT | {"do_rescale": False}, {"mean": tuple(m / 255 for m in MEAN)}),
        (BIT | {"do_rescale": False, "do_normalize": False}, {"mean": (0, 0, 0), "std": (1 / 255,) * 3}),
        (BIT | {"rescale_factor": 1 / 127.5, "image_std": 0.5}, {"std": (0.25,) * 3}),
    ],
)
def test_preprocessors_of_transformers(
    preprocessor: dict, expected: dict, read_huggingface: Callable[..., Pretrained]
) -> None:
    found = read_huggingface(None, preprocessor).preprocessing
    for name, value in expected.items():
        is_number = isinstance(value, tuple | float)
        assert getattr(found, name) == (pytest.approx(value) if is_number else value), name


@pytest.mark.parametrize(
    ("preprocessor", "line"),
    [
        ([], "preprocessor_config.json: [] is not of type 'object'"),
        (CONVNEXT | {"size": {"height": 64, "width": 64}}, "expected a shortest_edge"),
        (CONVNEXT | {"size": {"longest_edge": 64}}, "size: "),
        (CONVNEXT | {"size": {"shortest_edge": 64, "longest_edge": 96}}, "size: "),
        (
            CONVNEXT | {"size": 224, "do_center_crop": True, "crop_size": 192},
            "crop_size=192: crops once more",
        ),
        (CONVNEXT | {"size": 224, "crop_pct": 0}, "crop_pct: 0 is less than the minimum of 0.05"),
        (CONVNEXT | {"size": 224, "crop_pct": 1e-310}, "crop_pct: 1e-310 is less than the minimum of 0.05"),
        (CONVNEXT | {"size": 224, "crop_pct": 2}, "crop_pct: 2 is greater than the maximum of 1"),
        (CONVNEXT | {"size": 224.0}, "image_size=224.0: expected a whole number"),
        (VIT | {"size": 224.0}, "size=224.0: expected a square, its side a whole number"),
        (VIT | {"size": {"height": 64, "width": 96}}, "size={'height': 64, 'width': 96}: expected a square"),
        (BIT | {"do_center_crop": False}, "do_center_crop=false: pictures would keep their shape"),
        (BIT | {"crop_size": 256}, "crop_size=256: is larger than size=224"),
        (BIT | {"resample": 0}, "resample: 0 is not one of [1, 2, 3, None]"),
        (BIT | {"do_resize": False}, "do_resize: False is not one of [True, None]"),
        (BIT | {"do_flip_channel_order": True}, "do_flip_channel_order: True is not one of"),
        (BIT | {"do_pad": True}, "do_pad: True is not one of"),
        (BIT | {"rescale_factor": "1/255"}, "rescale_factor: '1/255' is not of type 'number'"),
        (BIT | {"rescale_factor": 10**400}, "is greater than the maximum of"),
        (BIT | {"image_mean": [0.5]}, "image_mean: "),
        (BIT | {"image_std": 10**400, "do_rescale": False}, "image_std: "),
        (BIT | {"image_std": 0}, "std=(0, 0, 0): out of range"),
        (BIT | {"sharpen": 1}, "('sharpen' was unexpected)"),
        (
            {"image_processor_type": "SegformerImageProcessor"},
            "image_processor_type: 'SegformerImageProcessor'",
        ),
    ],
)
def test_preprocessors_that_are_refused(
    preprocessor: object, line: str, read_huggingface: Callable[..., Pretrained]
) -> None:
    assert line in refusal(read_huggingface, None, preprocessor)


@pytest.mark.parametrize(("size", "crop"), [(224, 0.875), (384, 0.875), (64, 64 / 93)])
def test_a_preprocessor_that_was_exported_and_edited_is_noticed(
    size: int, crop: float, tmp_path: Path
) -> None:
    network = make_network(image_size=size, crop=crop, resample="bilinear")
    folder = export(network, network.init(0), tuple(LABELS.values()), format="huggingface", folder=tmp_path)
    assert read_pretrained(folder).preprocessing == network.preprocessing
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 3}))
    line = "says resample=bilinear, but the description beside it says bicubic"
    assert line in refusal(read_pretrained, folder)


# timm


def test_timm_sets_size_crop_and_filter(read_timm: Callable[..., Pretrained]) -> None:
    changes = {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash", "mean": MEAN}
    found = read_timm(changes, label_names=["a", "b", "c"])
    data = found.preprocessing
    assert (data.image_size, data.crop, data.fit, data.resample) == (224, 1.0, "stretch", "bilinear")
    assert data.mean == tuple(MEAN)
    assert found.class_names == ("a", "b", "c")
    assert read_timm(label_names={"1": "b", "0": "a", "2": "c"}).class_names == ("a", "b", "c")


def test_the_top_of_timm_s_config_overrides_what_is_said_of_the_weights_before_fine_tuning(
    read_timm: Callable[..., Pretrained],
) -> None:
    before = {"num_classes": 1000, "label_names": [f"class {i}" for i in range(1000)]}
    assert read_timm(before).class_names == ("0", "1", "2")
    assert read_timm(before, label_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    assert read_timm({"label_names": ["a", "b", "c"]}).class_names == ("a", "b", "c")
    alone = timm_config.fields_of_json({"architecture": "resnet18", "pretrained_cfg": before}, "config.json")
    assert (alone["classes"], len(alone["class_names"])) == ({1000}, 1000)


def test_the_first_form_of_timm_with_everything_at_the_top(timm_arrays: Arrays, tmp_path: Path) -> None:
    save_file(timm_arrays, tmp_path / "model.safetensors")
    flat = {"architecture": "resnet18", "num_classes": 3, **TIMM["pretrained_cfg"]}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    assert read_pretrained(tmp_path).preprocessing.crop == 0.95


@pytest.mark.parametrize(
    "architecture",
    [
        *("resnetblur50", "resnetblur18", "resnetaa50", "resnet50_gn", "ecaresnet50d", "ecaresnetlight"),
        *("resnet50d", "resnet18d", "gluon_resnet50_v1c", "seresnet18", "resnetrs50", "resnetv2_50x1_bit"),
        *("skresnet18", "resnest50d", "resnet18.a1_in1k", "resnet", "", None, 3),
    ],
)
def test_architectures_that_compute_otherwise(
    architecture: object, read_timm: Callable[..., Pretrained]
) -> None:
    assert f"config.json: architecture: {architecture!r} is not one of" in refusal(
        read_timm, architecture=architecture
    )


def test_plain_architectures_have_known_depths() -> None:
    assert set(timm_config.PLAIN.values()) <= {18, 34, 50, 101, 152, 200}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"architecture": "resnet34"}, "does not fit ResNet-34 of torchvision; missing: "),
        ({"pretrained_cfg": []}, "pretrained_cfg: [] is not of type 'object'"),
        ({"global_pool": "max"}, "global_pool: 'max' is not one of ['avg', 'fast']"),
        ({"num_classes": 7}, "its head has 3 outputs, but its description 7 classes"),
        ({"label_names": ["a", "b"]}, "its head has 3 outputs, but its description 2 classes"),
        ({"label_names": "abc"}, "label_names: 'abc' is not"),
        ({"label_names": {"0": "a", "2": "b", "3": "c"}}, "label_names: has gaps in its numbers"),
        ({"label_names": [1, 2, 3]}, "label_names"),
        ({"colour": 1}, "('colour' was unexpected)"),
        *(
            ({"model_args": {name: value}}, f"model_args.{name}: ")
            for name, value in {
                "global_pool": "catavgmax",
                "act_layer": "silu",
                "norm_layer": "groupnorm",
                "aa_layer": "blurpool",
                "block_args": {"attn_layer": "se"},
                "output_stride": 8,
                "in_chans": 1,
                "num_classes": [3],
                "stem_type": "deep",
                "avg_down": True,
                "replace_stem_pool": True,
            }.items()
        ),
        ({"model_args": {"colour": 1}}, "('colour' was unexpected)"),
        ({"model_args": [1]}, "model_args: [1] is not of type"),
    ],
)
def test_configs_of_timm_that_are_refused(
    changes: dict, line: str, read_timm: Callable[..., Pretrained]
) -> None:
    assert line in refusal(read_timm, **changes)


@pytest.mark.parametrize(
    ("pretrained", "line"),
    [
        ({"crop_mode": "border"}, "pretrained_cfg.crop_mode: 'border' is not one of"),
        ({"interpolation": "nearest"}, "pretrained_cfg.interpolation: 'nearest' is not one of"),
        ({"crop_pct": "0.9"}, "pretrained_cfg.crop_pct: '0.9' is not of type 'number'"),
        ({"crop_pct": 1.5}, "pretrained_cfg.crop_pct: 1.5 is greater than the maximum of 1"),
        ({"crop_pct": -1}, "pretrained_cfg.crop_pct: -1 is less than the minimum of 0.05"),
        ({"crop_pct": 1e-310}, "pretrained_cfg.crop_pct: 1e-310 is less than the minimum of 0.05"),
        ({"input_size": [3, 10**400, 10**400]}, "is greater than the maximum of 100000"),
        ({"mean": [0.5]}, "pretrained_cfg.mean: [0.5] is too short"),
        ({"mean": [0.5, None, 0.5]}, "pretrained_cfg.mean[1]: None is not of type 'number'"),
        ({"std": [1e-300, 1, 1]}, "std=(1e-300, 1, 1): out of range"),
        ({"input_size": 224}, "pretrained_cfg.input_size: 224 is not of type 'array'"),
        ({"input_size": [1, 224, 224]}, "pretrained_cfg.input_size=[1, 224, 224]: expected three channels"),
        ({"input_size": [3, 224, 192]}, "pretrained_cfg.input_size=[3, 224, 192]: expected three channels"),
        ({"first_conv": "conv1.0"}, "pretrained_cfg.first_conv: 'conv1.0' is not one of ['conv1', None]"),
        ({"classifier": "head.fc"}, "pretrained_cfg.classifier: 'head.fc' is not one of ['fc', None]"),
        ({"label_offset": 1}, "pretrained_cfg.label_offset: 1 is not one of"),
        ({"custom_load": True}, "pretrained_cfg.custom_load: False was expected"),
        ({"colour": 1}, "('colour' was unexpected)"),
    ],
)
def test_pretrained_cfgs_that_are_refused(
    pretrained: dict, line: str, read_timm: Callable[..., Pretrained]
) -> None:
    assert line in refusal(read_timm, pretrained)


@pytest.mark.parametrize("text", ["", "\x00", '{"a": ' + "9" * 5000 + "}", "[" * 100_000, '"text"', "3"])
def test_descriptions_that_are_no_json_objects(text: str, timm_arrays: Arrays, tmp_path: Path) -> None:
    save_file(timm_arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    assert "config.json: " in refusal(read_pretrained, tmp_path)


def test_descriptions_of_others_beside_torchvisions_weights(timm_arrays: Arrays, tmp_path: Path) -> None:
    save_file(timm_arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "model_type='bert': describes another network" in refusal(read_pretrained, tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}, "class_names": []}')
    assert read_pretrained(tmp_path).class_names == ("0", "1", "2")
