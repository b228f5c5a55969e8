"""Accuracy on corrupted images, as on ImageNet-C: fifteen corruptions of five severities, made on the fly.

Hendrycks & Dietterich 2019 (arXiv:1903.12261), section 4.1. Severities follow Tiny ImageNet-C, whose images
have 64x64 pixels too; lengths grow with the image. `EXTRA` holds four more corruptions, which that paper sets
aside for choosing a recipe, so that the fifteen stay unseen until the test.
`python -m evaluation.corruptions IMAGE OUT.png` writes a sheet of all of them.
"""

import argparse
import io
import sys
import zlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from datasets.types import Split
from resnet.errors import exit_code
from resnet.json_files import Schema

Rng = np.random.Generator
# Image float64 [H, W, 3] in [0, 1], strength, generator -> image; what lies outside [0, 1] is clipped.
Corruption = Callable[[np.ndarray, Any, Rng], np.ndarray]
SEVERITIES = (1, 2, 3, 4, 5)
ACCURACIES: Schema = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": len(SEVERITIES),
    "maxItems": len(SEVERITIES),
}
RESULT: Schema = {
    "type": "object",
    "properties": {
        "clean": {"type": "number"},
        "mean": {"type": "number"},
        "by_severity": ACCURACIES,
        "corruptions": {"type": "object", "additionalProperties": ACCURACIES},
    },
    "required": ["clean", "mean", "by_severity", "corruptions"],
}
# Of the results of `evaluate_corruptions` as --mode=eval writes them, for one seed or for several.
SCHEMA: Schema = {
    "if": {"required": ["seeds"]},
    "then": {
        "type": "object",
        "properties": {"seeds": {"type": "object"}, "mean": RESULT},
        "required": ["mean"],
    },
    "else": RESULT,
}
REFERENCE_SIDE = 64  # pixels: the side that lengths below are meant for


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Returns `images` uint8 [N, H, W, 3] under the corruption `name` of `STANDARD` or `EXTRA`.

    `severity` is 1 to 5. The same corruption, severity and `seed` always change image i in the same way.
    """
    function, strengths = (STANDARD | EXTRA)[name]
    strength = strengths[SEVERITIES.index(severity)]
    result = np.empty(images.shape, np.uint8)
    for i, image in enumerate(images):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, i])
        changed = function(image / 255, strength, rng)
        result[i] = np.rint(np.clip(changed, 0, 1) * 255)
    return result


def _gaussian_noise(image: np.ndarray, sigma: float, rng: Rng) -> np.ndarray:
    return image + rng.normal(0, sigma, image.shape)


def _shot_noise(image: np.ndarray, photons: float, rng: Rng) -> np.ndarray:
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: np.ndarray, share: float, rng: Rng) -> np.ndarray:
    hit = rng.random(image.shape) < share
    return np.where(hit, rng.integers(0, 2, image.shape), image)


def _speckle_noise(image: np.ndarray, sigma: float, rng: Rng) -> np.ndarray:
    return image * (1 + rng.normal(0, sigma, image.shape))


def _defocus_blur(image: np.ndarray, radius: float, rng: Rng) -> np.ndarray:
    radius *= _scale(image)
    reach = int(np.ceil(radius))
    # Each pixel of the disk counts by the share of it that is covered, from 8 x 8 points inside.
    points = (np.arange((2 * reach + 1) * 8) + 0.5) / 8 - reach - 0.5
    inside = points[:, None] ** 2 + points**2 <= radius**2
    disk = inside.reshape(2 * reach + 1, 8, 2 * reach + 1, 8).mean((1, 3))
    return _filter(image, disk)


def _gaussian_blur(image: np.ndarray, sigma: float, rng: Rng) -> np.ndarray:
    sigma *= _scale(image)
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _glass_blur(image: np.ndarray, strength: tuple[float, int, int], rng: Rng) -> np.ndarray:
    """Gives every pixel the colour of a random neighbour, between two blurs."""
    sigma, reach, times = strength
    reach = max(1, round(reach * _scale(image)))
    image = _gaussian_blur(image, sigma, rng)
    height, width = image.shape[:2]
    for _ in range(times):
        rows, columns = np.indices((height, width)) + rng.integers(-reach, reach + 1, (2, height, width))
        image = image[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return _gaussian_blur(image, sigma, rng)


def _motion_blur(image: np.ndarray, sigma: float, rng: Rng) -> np.ndarray:
    return _filter(image, _trail(sigma * _scale(image), rng.uniform(-45, 45)))


def _zoom_blur(image: np.ndarray, largest: float, rng: Rng) -> np.ndarray:
    zooms = np.arange(1, largest + 0.005, 0.01)
    return (image + sum(_zoomed(image, zoom) for zoom in zooms)) / (len(zooms) + 1)


def _snow(image: np.ndarray, strength: tuple[float, ...], rng: Rng) -> np.ndarray:
    mean, sigma, size, threshold, trail, kept = strength
    flakes = _zoomed(rng.normal(mean, sigma, image.shape[:2])[..., None], size)[..., 0]
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = _filter(flakes[..., None], _trail(trail * _scale(image), rng.uniform(45, 135)))
    whitened = np.maximum(image, _grey(image) * 1.5 + 0.5)
    return kept * image + (1 - kept) * whitened + flakes + np.rot90(flakes, 2)


def _frost(image: np.ndarray, strength: tuple[float, float], rng: Rng) -> np.ndarray:
    """Adds needles of ice that grow in random directions, denser in some places than in others."""
    kept, added = strength
    side = image.shape[0]
    needles = np.zeros(image.shape[:2])
    for angle in rng.uniform(0, 180, 5):
        seeds = np.where(rng.random(needles.shape) < 0.02, rng.random(needles.shape), 0)
        trail = _trail(side / 20, angle)
        needles = np.maximum(needles, _filter(seeds[..., None], trail)[..., 0])
    needles /= max(needles.max(), 1e-9)  # A tiny image may have none.
    ice = 0.9 * needles + 0.6 * _clouds(image.shape[:2], 2.0, rng)
    return kept * image + added * ice[..., None] * np.array([0.88, 0.96, 1.0])


def _fog(image: np.ndarray, strength: tuple[float, float], rng: Rng) -> np.ndarray:
    density, decay = strength
    brightest = image.max()
    fogged = image + density * _clouds(image.shape[:2], decay, rng)[..., None]
    return fogged * brightest / (brightest + density)


def _spatter(image: np.ndarray, strength: tuple[float, bool], rng: Rng) -> np.ndarray:
    """Puts drops of water or of mud over `share` of the image."""
    share, mud = strength
    liquid = ndimage.gaussian_filter(rng.normal(size=image.shape[:2]), 1.2 * _scale(image))
    drops = (liquid > np.quantile(liquid, 1 - share)).astype(float)
    opacity = ndimage.gaussian_filter(drops, 0.4 * _scale(image))[..., None]
    if mud:
        return image * (1 - opacity) + opacity * np.array([63, 42, 20]) / 255
    return image + 0.6 * opacity * np.array([175, 238, 238]) / 255


def _brightness(image: np.ndarray, added: float, rng: Rng) -> np.ndarray:
    """Adds to the value of HSV; hue and saturation stay."""
    value = image.max(-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    return np.where(value > 0, image * brighter / np.maximum(value, 1e-9), brighter)


def _contrast(image: np.ndarray, factor: float, rng: Rng) -> np.ndarray:
    mean = image.mean((0, 1))
    return mean + (image - mean) * factor


def _saturate(image: np.ndarray, strength: tuple[float, float], rng: Rng) -> np.ndarray:
    """Scales the saturation of HSV, then adds to it; hue and value stay, grey stays grey."""
    factor, added = strength
    value = image.max(-1, keepdims=True)
    saturation = 1 - image.min(-1, keepdims=True) / np.maximum(value, 1e-9)
    wanted = np.clip(saturation * factor + added, 0, 1)
    return value - (value - image) * wanted / np.maximum(saturation, 1e-9)


def _elastic_transform(image: np.ndarray, strength: tuple[float, float, float], rng: Rng) -> np.ndarray:
    """A random affine map and a smooth field of displacements."""
    moved, smoothness, shift = np.array(strength) * _scale(image)
    height, width = image.shape[:2]
    rows, columns = np.indices((height, width))
    # A third of the image away from the centre each of the three moves a point by up to half of `shift`.
    across, down, whole = rng.uniform(-shift, shift, (3, 2)) / (min(height, width) / 3)
    y, x = (rows - height / 2) / 2, (columns - width / 2) / 2
    field = [across[i] * x + down[i] * y + whole[i] * min(height, width) / 6 for i in (0, 1)]
    if moved:
        for i in (0, 1):
            noise = ndimage.gaussian_filter(rng.uniform(-1, 1, (height, width)), smoothness)
            field[i] = field[i] + moved * noise / max(noise.std(), 1e-9)
    return _sample(image, rows + field[0], columns + field[1])


def _pixelate(image: np.ndarray, factor: float, rng: Rng) -> np.ndarray:
    height, width = image.shape[:2]
    picture = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    small = picture.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255


def _jpeg_compression(image: np.ndarray, quality: int, rng: Rng) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)) / 255


STANDARD: dict[str, tuple[Corruption, tuple]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.08, 0.12, 0.15, 0.18)),
    "shot_noise": (_shot_noise, (250, 100, 50, 30, 15)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.05, 0.08, 0.14)),
    "defocus_blur": (_defocus_blur, (0.8, 1.2, 1.7, 2.4, 3.0)),
    "glass_blur": (_glass_blur, ((0.4, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2))),
    "motion_blur": (_motion_blur, (1.0, 1.5, 2.0, 2.5, 3.0)),
    "zoom_blur": (_zoom_blur, (1.05, 1.10, 1.15, 1.20, 1.25)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1.0, 0.60, 1.0, 0.80),
            (0.1, 0.2, 1.0, 0.50, 1.3, 0.80),
            (0.15, 0.3, 1.75, 0.55, 1.3, 0.70),
            (0.25, 0.3, 2.25, 0.60, 2.0, 0.65),
            (0.3, 0.3, 1.25, 0.65, 3.0, 0.60),
        ),
    ),
    "frost": (_frost, ((1.0, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))),
    "fog": (_fog, ((0.4, 2.6), (0.7, 2.6), (1.0, 2.3), (1.5, 2.0), (2.0, 1.8))),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        _elastic_transform,
        ((0.0, 1.0, 3.0), (0.3, 3.0, 3.5), (0.5, 2.5, 3.8), (0.7, 2.0, 3.8), (1.0, 2.0, 3.8)),
    ),
    "pixelate": (_pixelate, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "jpeg_compression": (_jpeg_compression, (65, 58, 50, 40, 25)),
}
EXTRA: dict[str, tuple[Corruption, tuple]] = {
    "speckle_noise": (_speckle_noise, (0.15, 0.2, 0.25, 0.3, 0.35)),
    "gaussian_blur": (_gaussian_blur, (0.5, 0.75, 1.0, 1.25, 1.5)),
    "spatter": (_spatter, ((0.05, False), (0.1, False), (0.15, False), (0.1, True), (0.15, True))),
    "saturate": (_saturate, ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (30.0, 0.2))),
}
GROUPS = {"standard": STANDARD, "extra": EXTRA}


def _scale(image: np.ndarray) -> float:
    return image.shape[0] / REFERENCE_SIDE


def _grey(image: np.ndarray) -> np.ndarray:
    return (image @ np.array([0.299, 0.587, 0.114]))[..., None]  # Rec. 601 luma


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves every channel of `image` [H, W, C] with `kernel`, scaled to sum 1. Edges are extended."""
    return ndimage.convolve(image, (kernel / kernel.sum())[..., None], mode="nearest")


def _trail(sigma: float, degrees: float) -> np.ndarray:
    """Returns a kernel [K, K]: half a bell curve that runs from the centre at an angle to the rows."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    along = np.arange(0, 3 * sigma, 0.25)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    rows = np.rint(reach - along * np.sin(np.radians(degrees))).astype(int)
    columns = np.rint(reach + along * np.cos(np.radians(degrees))).astype(int)
    np.add.at(kernel, (rows, columns), weights)
    return kernel


def _zoomed(image: np.ndarray, zoom: float) -> np.ndarray:
    """Returns the middle of `image` [H, W, C], enlarged `zoom` times and cut to the size of the image."""
    rows, columns = np.indices(image.shape[:2], float)
    middle = (np.array(image.shape[:2]) - 1) / 2
    return _sample(image, middle[0] + (rows - middle[0]) / zoom, middle[1] + (columns - middle[1]) / zoom)


def _sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Samples `image` [H, W, C] bilinearly at `rows` and `columns` [H, W]; edges are mirrored."""
    channels = [
        ndimage.map_coordinates(channel, (rows, columns), order=1, mode="mirror")
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, -1)


def _clouds(shape: tuple[int, int], decay: float, rng: Rng) -> np.ndarray:
    """Returns noise [H, W] from 0 to 1 whose amplitude falls with frequency to the power `decay`."""
    # Twice as large and then cut, because the result of a Fourier transform repeats at its edges.
    height, width = 2 * shape[0], 2 * shape[1]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency**decay
    clouds = np.fft.irfft2(spectrum, (height, width))[: shape[0], : shape[1]]
    return (clouds - clouds.min()) / np.ptp(clouds)


def evaluate_corruptions(
    predict: Callable[[np.ndarray], np.ndarray], split: Split, group: str
) -> dict[str, Any]:
    """Measures accuracy under every corruption of `group`, standard or extra, at every severity.

    Returns `clean`, `corruptions` (name to the accuracies of severities 1 to 5), `by_severity` (their means
    over corruptions), `mean` (over all) and `images`.
    """
    accuracies: dict[str, list[float]] = {name: [] for name in GROUPS[group]}
    steps = [(name, severity) for name in accuracies for severity in SEVERITIES]
    for name, severity in tqdm(steps, unit="set", disable=None, leave=False):
        images = corrupt(split.images, name, severity)
        accuracies[name].append(float(np.mean(predict(images).argmax(-1) == split.labels)))
    table = np.array(list(accuracies.values()))
    return {
        "clean": float(np.mean(predict(split.images).argmax(-1) == split.labels)),
        "mean": float(table.mean()),
        "by_severity": table.mean(0).tolist(),
        "corruptions": accuracies,
        "images": len(split.labels),
    }


def draw_sheet(image: np.ndarray) -> Image.Image:
    """Draws all corruptions of one `image` uint8 [H, W, 3]: a row each, severities from left to right."""
    rows = [
        np.concatenate([image, *(corrupt(image[None], name, s)[0] for s in SEVERITIES)], axis=1)
        for name in chain(STANDARD, EXTRA)
    ]
    return Image.fromarray(np.concatenate(rows))


def _main() -> None:
    from evaluation.report.pictures import encode_picture
    from resnet.files import write_result
    from resnet.images import fit_square, read_image

    parser = argparse.ArgumentParser(prog="python -m evaluation.corruptions", description=__doc__)
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("out", metavar="OUT.png", type=Path)
    arguments = parser.parse_args()
    image = fit_square(read_image(arguments.image), REFERENCE_SIDE)
    write_result(arguments.out, encode_picture(draw_sheet(image)))


if __name__ == "__main__":
    sys.exit(exit_code(_main))
