"""The readers that the fuzzer attacks: which file is changed, how, and which command then reads it."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.campaigns import answers
from tests.campaigns.answers import Reading
from tests.campaigns.mutations import (
    change_bytes,
    change_json_lines,
    change_json_text,
    change_text,
)


class Part(NamedTuple):
    """A part of a file that is changed as a text of its own: how to take it out, and how to put it back."""

    get: Callable[[bytes], bytes]
    put: Callable[[bytes, bytes], bytes]


WHOLE = Part(lambda data: data, lambda data, part: part)


def _header(data: bytes) -> bytes:
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]


def _with_header(data: bytes, header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data[8 + len(_header(data)) :]


# The JSON at the beginning of a safetensors file, and the description of ours in it.
HEADER = Part(_header, _with_header)
DESCRIPTION = Part(
    lambda data: json.loads(_header(data))["__metadata__"]["resnet_config"].encode(),
    lambda data, part: _with_description(data, part),
)


def _with_description(data: bytes, description: bytes) -> bytes:
    header = json.loads(_header(data))
    header["__metadata__"]["resnet_config"] = description.decode(errors="replace")
    return _with_header(data, json.dumps(header).encode())


def _member(name: str) -> Part:
    """Returns the part of a zip file that is its member `name`."""

    def get(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(name)

    def put(data: bytes, part: bytes) -> bytes:
        written = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(written, "w") as new:
            for info in archive.infolist():
                content = part if info.filename == name else archive.read(info)
                new.writestr(zipfile.ZipInfo(info.filename), content)
        return written.getvalue()

    return Part(get, put)


class Reader(NamedTuple):
    """A file that is read.

    `source` is the file or folder of seeds that a case copies, and `target` the file in it that is changed.
    `arguments` are those of main.py, in which `{copy}` and `{seeds}` stand for folders. Where the change is
    one of JSON, answers may differ if it is at a place that the pattern `may_change` matches. `sealed` files
    have checksums of their own: whatever is changed, the answer is the same, if there is one. Otherwise a
    change of bytes may change the answer. `lines` may come on stderr.
    """

    source: str
    arguments: tuple[str, ...]
    answer: Reading
    target: str = ""
    change: Callable[[Random, bytes], bytes] = change_bytes
    part: Part = WHOLE
    may_change: str | None = None
    sealed: bool = False
    lines: int = 1
    writes: bool = False  # into the folder that it reads, as training does
    weight: int = 1  # how often its turn comes
    beside: str = ""  # the name of a picture that is answered all the same
    copies: int = 1  # of the source, each of which is changed

    def applies(self, seeds: Path) -> bool:
        """Whether there are such seeds: not without PyTorch, for its files."""
        return (seeds / self.source).exists()


COPIES = 6  # damaged pictures in a case: to start takes longer than to read them
GOOD = "{seeds}/pictures/good.png"
PREPARATION = r"mean|std|standardize|channel_order|fit|crop|image_size"
OF_RUNS = (
    rf"config\.(model($|\.)|data($|\.({PREPARATION}))|temperature|test_time_flip|compute_dtype|ema_decay|seeds)"
    r"|class_names|config$|^$"
)


def _weights(source: str, target: str = "", **options: object) -> Reader:
    path = "{copy}/" + source.split("/")[-1]
    arguments = ("--mode=predict", "--json", f"--weights={path}", GOOD, "{seeds}/pictures/picture.png")
    return Reader(source, arguments, answers.predictions, target, **options)


def _picture(name: str) -> Reader:
    arguments = ("--mode=predict", "--json", "--workdir={seeds}/run", "{copy}", GOOD)
    options = {"copies": COPIES, "lines": COPIES, "beside": "good.png"}
    return Reader(f"pictures/{name}", arguments, answers.predictions, **options)


def _use_of_run(target: str, mode: str, **options: object) -> Reader:
    arguments = {
        "predict": ("--mode=predict", "--json", "--workdir={copy}/run", GOOD),
        "eval": ("--mode=eval", "--json", "--workdir={copy}/run"),
        "export": ("--mode=export", "--workdir={copy}/run"),
        "report": ("--mode=report", "--workdir={copy}/run"),
        "train": ("{training}",),
    }[mode]
    answer = {
        "predict": answers.predictions,
        "eval": answers.scores,
        "export": answers.exported,
        "report": answers.page,
        "train": answers.accuracies,
    }[mode]
    options = {"change": change_json_text, "lines": 4, "writes": True} | options
    return Reader("run", arguments, answer, target, **options)


def _data(
    source: str, target: str = "", *, name: str = "folder", path: str = "", **options: object
) -> Reader:
    arguments = (
        "--mode=audit",
        "--json",
        "--config={root}/configs/default.py",
        f"--config.data.name={name}",
        "--config.data.dir={copy}/" + (path or source),
        "--workdir={case}/audit",
    )
    return Reader(source, arguments, answers.scores, target, lines=4, **options)


PICTURES = (
    "picture.png", "palette.png", "grey16.png", "picture.jpg", "progressive.jpg", "picture.gif",
    "picture.webp", "picture.tiff", "picture.bmp", "picture.heic",
)  # fmt: skip
JSON_FILE = {"change": change_json_text}
PREPROCESSOR = r"image_mean|image_std|size|crop_pct|resample|do_|rescale_factor|^$"

READERS: dict[str, Reader] = {
    # Weights
    "safetensors": _weights("weights/safetensors/resnet.safetensors"),
    "safetensors_header": _weights("weights/safetensors/resnet.safetensors", part=HEADER, **JSON_FILE),
    "safetensors_description": _weights(
        "weights/safetensors/resnet.safetensors",
        part=DESCRIPTION,
        may_change=rf"model|data($|\.({PREPARATION}))|class_names|test_time_flip|format|^$",
        weight=2,
        **JSON_FILE,
    ),
    "torchvision": _weights("weights/torchvision/torchvision.safetensors"),
    "onnx": _weights("weights/model.onnx"),
    "keras": _weights("weights/model.keras", sealed=True),
    "keras_metadata": _weights(
        "weights/model.keras",
        part=_member("metadata.json"),
        may_change=rf"resnet_config($|\.(model|data($|\.({PREPARATION}))|class_names|test_time_flip))|^$",
        **JSON_FILE,
    ),
    "keras_graph": _weights(
        "weights/model.keras", part=_member("config.json"), may_change=r".*", weight=2, **JSON_FILE
    ),
    "keras_weights": _weights("weights/model.keras", part=_member("model.weights.h5")),
    "weights_h5": _weights("weights/model.weights.h5"),
    "legacy_h5": _weights("weights/keras_50_old.h5"),
    "pytorch": _weights("weights/model.pth"),
    "pytorch_legacy": _weights("weights/legacy.pth"),
    "huggingface_config": _weights(
        "weights/huggingface",
        "config.json",
        may_change=r"id2label|label2id|downsample_in_bottleneck|downsample_in_first_stage|^$",
        weight=2,
        **JSON_FILE,
    ),
    "huggingface_preprocessor": _weights(
        "weights/huggingface", "preprocessor_config.json", may_change=PREPROCESSOR, weight=2, **JSON_FILE
    ),
    "timm_config": _weights(
        "weights/timm",
        "config.json",
        may_change=r"pretrained_cfg($|\.(mean|std|crop_pct|crop_mode|interpolation|input_size|label_names))"
        r"|label_names|label_descriptions|^$",
        weight=2,
        **JSON_FILE,
    ),
    # Pictures
    **{name.replace(".", "_"): _picture(name) for name in PICTURES},
    # Files of runs
    **{
        f"config_{mode}": _use_of_run("config.json", mode, may_change=OF_RUNS)
        for mode in ("predict", "eval", "export")
    },
    "config_train": _use_of_run("config.json", "train", may_change=r"config|class_names|^$"),
    "config_report": _use_of_run("config.json", "report", may_change=r".*"),
    "summary_report": _use_of_run("summary.json", "report", may_change=r".*"),
    "summary_train": _use_of_run("summary.json", "train", may_change=r".*"),
    "metrics_report": _use_of_run("metrics.jsonl", "report", change=change_json_lines),
    "metrics_train": _use_of_run("metrics.jsonl", "train", change=change_json_lines),
    "eval_report": _use_of_run("eval_test.json", "report", may_change=r".*"),
    "images_train": _use_of_run("images.tsv", "train", change=change_text),
    "images_predict": _use_of_run("images.tsv", "predict", change=change_text, sealed=True),
    "checksums_predict": _use_of_run("checkpoints/*/SHA256SUMS", "predict", change=change_text, sealed=True),
    "checkpoint_predict": _use_of_run("checkpoints/4/*", "predict", change=change_bytes),
    "checkpoint_train": _use_of_run("checkpoints/4/*", "train", change=change_bytes),
    # Data sets
    "signs_h5": _data("signs", "train_signs.h5", name="signs", weight=2),
    "table": _data("listed", "images.csv", path="listed/images.csv", change=change_text),
    "zip": _data("images.zip", weight=2),
    "tar": _data("images.tar"),
    "tar_xz": _data("images.tar.xz"),
}
