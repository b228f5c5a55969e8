"""Valid small files from which the fuzzer starts: a trained run, weights of each format, pictures, data sets.

`python -m tests.campaigns.seeds FOLDER` makes them by the project's own writers, and in formats that it only
reads by the libraries whose formats they are. None is a photograph. `prepare` does so once, in a process of
its own, and again when the code has changed.
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from tests.command_line import ROOT, flags_of
from tests.quick_compilation import QUICK_XLA_FLAGS
from tests.runs import NO_RESAMPLING, SMALL

CLASSES = ("fist", "palm", "zeigé")  # The last one is not ASCII.
NO_AUGMENTATION = NO_RESAMPLING | {"augment.flip": 0.0, "augment.appearance": 0.0}
FIELDS = {
    **SMALL,
    **NO_AUGMENTATION,
    "data.image_size": 32,
    "batch_size": 8,
    "num_epochs": 2,
    # So fast that its answers differ from one picture to the next.
    "optimizer.learning_rate": 0.02,
    "optimizer.warmup_epochs": 0.0,
}
CONFIG = f"--config={ROOT / 'configs' / 'default.py'}"
GOLDEN = ROOT / "tests" / "resnet" / "formats" / "golden"


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of the programs of a campaign: on the CPU, with caches of their own."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK_XLA_FLAGS,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache" / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(ROOT),
    }


def prepare(folder: Path) -> Path:
    """Returns the folder of seeds in `folder`, made anew if it is missing or of another state of the code."""
    seeds, stamp = folder / "seeds", folder / "seeds.code"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "seeds.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code = _digest_of_code()
        if not stamp.exists() or stamp.read_text() != code:
            shutil.rmtree(seeds, ignore_errors=True)
            seeds.mkdir()
            command = [sys.executable, "-m", "tests.campaigns.seeds", str(seeds)]
            subprocess.run(command, cwd=ROOT, env=environment(folder), stdout=subprocess.DEVNULL, check=True)
            stamp.write_text(code)
    return seeds


def _digest_of_code() -> str:
    digest = hashlib.sha256()
    rooms = ("resnet", "datasets", "training", "workdir", "evaluation", "configs")
    files = [file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))]
    for file in (*files, Path(__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


# Pictures and data sets


def picture(seed: int, label: int = 0, size: tuple[int, int] = (90, 60)) -> np.ndarray:
    """Draws a picture uint8 [height, width, 3] of `size` (width, height): a gradient, a block and noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    image = np.stack([x, y, (x + y) / 2], -1) * rng.uniform(80, 150)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    image[top : top + height // 3, left : left + width // 3, label % 3] += 100
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def write_pictures(folder: Path) -> None:
    """Writes the same picture in every format, and one that stays as it is."""
    folder.mkdir()
    image = Image.fromarray(picture(0))
    image.save(folder / "picture.png")
    image.quantize(64).save(folder / "palette.png")
    Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 256).save(folder / "grey16.png")
    image.save(folder / "picture.jpg", quality=80)
    image.save(folder / "progressive.jpg", quality=80, progressive=True, exif=_turned())
    image.save(folder / "picture.gif")
    image.save(folder / "picture.webp", quality=80)
    image.save(folder / "picture.tiff", compression="tiff_lzw")
    image.save(folder / "picture.bmp")
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.from_pillow(image).save(folder / "picture.heic", quality=80)
    Image.fromarray(picture(1, 1)).save(folder / "good.png")


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright.
    return exif


def write_images(folder: Path) -> None:
    """Writes a folder of images by class, and the same as a table, a zip file and a tar file beside it."""
    rows = ["path,label,split"]
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            path = folder / name / f"{i}.png"
            Image.fromarray(picture(100 * label + i, label, (40, 36))).save(path)
            rows.append(f"{name}/{i}.png,{name},{'test' if i > 7 else 'train'}")
    listed = shutil.copytree(folder, folder.parent / "listed")
    (listed / "images.csv").write_text("\n".join(rows) + "\n")
    files = sorted(folder.rglob("*.png"))[::4]
    with zipfile.ZipFile(folder.parent / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(folder))), file.read_bytes())
    for suffix, mode in (("tar", "w"), ("tar.xz", "w:xz")):
        with tarfile.open(folder.parent / f"images.{suffix}", mode) as archive:
            for file in files:
                info = tarfile.TarInfo(str(file.relative_to(folder)))
                info.size = file.stat().st_size
                archive.addfile(info, io.BytesIO(file.read_bytes()))


def write_signs(folder: Path) -> None:
    """Writes a pair of SIGNS-shaped files: 30 train and 12 test images of noise with a block."""
    folder.mkdir()
    for prefix, size in (("train", 30), ("test", 12)):
        labels = np.arange(size) % 6
        images = [picture(i, label, (64, 64)) for i, label in enumerate(labels)]
        with h5py.File(folder / f"{prefix}_signs.h5", "w", track_order=False) as file:
            file[f"{prefix}_set_x"] = np.stack(images)
            file[f"{prefix}_set_y"] = labels.astype(np.int64)
            file["list_classes"] = np.arange(6, dtype=np.int64)


# A run


def training_arguments(seeds: Path, workdir: Path | str) -> list[str]:
    """Returns the arguments of main.py that train the run."""
    data = {
        "data.name": "folder",
        "data.dir": seeds / "images",
        "data.val_fraction": 0.2,
        "data.test_fraction": 0.2,
    }
    return [CONFIG, f"--workdir={workdir}", *flags_of(FIELDS | data)]


def write_run(seeds: Path) -> None:
    """Trains the run, evaluates it and writes its report. Speeds are replaced, so that seeds are the same."""
    import main

    workdir = seeds / "run"
    commands = (
        training_arguments(seeds, workdir),
        ["--mode=eval", f"--workdir={workdir}"],
    )
    for arguments in commands:
        sys.modules.pop("config_config", None)  # ml_collections runs a second file on top of the first one.
        if (code := main.run(["main.py", *arguments])) != 0:
            raise SystemExit(f"{' '.join(arguments)}: exit code {code}, expected 0")
    metrics = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(_without_speed(line)) + "\n" for line in lines))
    summary = workdir / "summary.json"
    summary.write_text(json.dumps(_without_speed(json.loads(summary.read_text())), indent=2) + "\n")
    page = workdir / "report" / "index.html"
    os.utime(page, (2**32, 2**32))  # It is newer than any summary: training alone writes none anew.


def _without_speed(content: Mapping[str, object]) -> dict[str, object]:
    return {name: 100.0 if name in ("images_per_second", "seconds") else v for name, v in content.items()}


# Weights


def write_weights(folder: Path) -> None:
    """Writes one network in every format."""
    from resnet.formats.export import export
    from tests.runs import small_config
    from training.network import make_network

    config = small_config(
        **{"model.width": 4, "data.image_size": 32, "compute_dtype": "float32", "model.convolution": "lax"}
    )
    network = make_network(config, len(CLASSES))
    weights = network.init(0)
    weights.params["head"]["kernel"] = weights.params["head"]["kernel"] * 30
    folder.mkdir()
    for format in ("safetensors", "torchvision", "keras", "huggingface", "onnx"):
        export(network, weights, CLASSES, format=format, folder=folder)
    for name in ("safetensors", "torchvision"):  # Alone: what describes the weights lies in the same folder.
        (folder / name).mkdir()
    (folder / "resnet.safetensors").rename(folder / "safetensors" / "resnet.safetensors")
    (folder / "torchvision.safetensors").rename(folder / "torchvision" / "torchvision.safetensors")
    with zipfile.ZipFile(folder / "model.keras") as archive:
        (folder / "model.weights.h5").write_bytes(archive.read("model.weights.h5"))
    for name in ("keras_50_old.h5", "keras_50v2.weights.h5"):
        (folder / name).write_bytes(gzip.decompress((GOLDEN / f"{name}.gz").read_bytes()))
    _write_bare_huggingface(folder / "huggingface")
    _write_timm(folder)
    _write_pytorch(folder)


def _write_bare_huggingface(folder: Path) -> None:
    """Takes our description out of the weights, so that the two files beside them count."""
    from safetensors.numpy import load_file, save_file

    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt"})


def _write_timm(folder: Path) -> None:
    """Writes the folder that timm writes, with the fields of its `config.json`."""
    from safetensors.numpy import load_file, save_file

    (folder / "timm").mkdir()
    arrays = load_file(folder / "torchvision" / "torchvision.safetensors")
    save_file(arrays, folder / "timm" / "model.safetensors", {"format": "pt"})
    config = {
        "architecture": "resnet18",
        "num_classes": len(CLASSES),
        "num_features": 32,
        "pretrained_cfg": {
            "tag": "a1_in1k",
            "custom_load": False,
            "input_size": [3, 32, 32],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": len(CLASSES),
            "pool_size": [1, 1],
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "label_names": list(CLASSES),
    }
    (folder / "timm" / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_pytorch(folder: Path) -> None:
    """Writes the two formats of `torch.save`, where PyTorch is installed."""
    try:
        import torch
    except ImportError:
        return
    from safetensors.torch import load_file

    state = load_file(folder / "torchvision" / "torchvision.safetensors")
    torch.save(state, folder / "model.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)


def write_all(folder: Path) -> None:
    """Writes all seeds into the empty `folder`."""
    write_pictures(folder / "pictures")
    write_images(folder / "images")
    write_signs(folder / "signs")
    write_weights(folder / "weights")
    write_run(folder)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
