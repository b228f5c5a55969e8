"""A camera: blur, development, noise and compression, from the light that reaches it to a picture."""

import io

import numpy as np
from PIL import Image

from datasets.rendered.pixels import clip, grid, shift, soften

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def _blur(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs `[C, S, S]` by defocus and sometimes by motion."""
    size = light.shape[-1]
    pixel = size / 64
    kind = rng.random()
    radius = rng.uniform(0.6, 1.2) if kind < 0.3 * strength else rng.uniform(0.25, 0.6)
    light = soften(light, radius * pixel)
    if kind > 1 - 0.15 * strength:
        angle, length = rng.uniform(0, np.pi), rng.uniform(1, 4.5) * pixel
        steps = np.linspace(-0.5, 0.5, max(2, round(length)))
        channels = np.moveaxis(light, 0, -1)
        moved = [shift(channels, s * length * np.array([np.cos(angle), np.sin(angle)])) for s in steps]
        light = np.moveaxis(np.asarray(sum(moved)) * np.float32(1 / len(moved)), -1, 0)
    return light


def _develop(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Develops linear light `[3, S, S]` to sRGB 0-1: exposure, white balance, tone curve, colours."""
    size = light.shape[-1]
    error = 0.4 + 0.8 * strength
    warm, green = error * rng.normal(0, 0.1), error * rng.normal(0, 0.04)
    balance = np.exp(warm * np.array([1, 0, -1]) + green * np.array([-0.5, 1, -0.5]))
    exposure = np.exp(np.clip(0.05 + error * rng.normal(0, 0.25), -0.6, 0.5))
    light = light * (exposure * balance).astype(np.float32)[:, None, None]
    x, y = grid(size)
    light = light * (1 - np.float32(rng.uniform(0, 0.2)) * (x * x + y * y))
    haze = np.float32(rng.uniform(0, 0.06) if rng.random() < 0.4 * strength else 0.0)
    image = (clip(light, 0, 2) * (1 - haze) + haze) ** np.float32(1 / 2.2)
    # Highlights are compressed before they clip.
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)
    image = image ** np.float32(np.exp(error * rng.normal(0, 0.12)))
    contrast = np.float32(np.exp(error * rng.normal(0, 0.12)))
    image = (image - 0.5) * contrast + 0.5
    grey = np.tensordot(LUMINANCE, image, 1)
    saturation = np.float32(0.0 if rng.random() < 0.06 * strength else np.exp(error * rng.normal(0, 0.2)))
    return grey + (image - grey) * saturation


def _sensor_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds grain, which is strongest in the dark. With cheap cameras it comes in coloured blotches."""
    grain = rng.uniform(0.012, 0.035) if rng.random() < 0.3 * strength else rng.uniform(0.002, 0.012)
    noise = rng.standard_normal(image.shape, np.float32)
    if rng.random() < 0.5 * strength:
        noise = soften(noise, 0.7) * np.float32(1.8)
    return image + noise * (np.float32(grain) * (1.3 - 0.6 * clip(image, 0, 1)))


def _lower_resolution(image: np.ndarray, side: int) -> np.ndarray:
    """Reduces a picture, uint8 `[S, S, 3]`, to `side` pixels and enlarges it again."""
    size = image.shape[0]
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.array(small.resize((size, size), Image.Resampling.BICUBIC))


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Stores a picture, uint8 `[S, S, 3]`, as JPEG and reads it back."""
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=quality)
    with Image.open(stored) as picture:
        return np.array(picture)


def expose(
    light: np.ndarray, matte: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Takes a picture of a scene. The matte is blurred like the picture.

    Args:
      light: linear RGB float32 `[3, S, S]`.
      matte: float32 `[S, S]`, 0 to 1.
      strength: 0 to 1; the higher, the worse the camera may be.
      rng: source of all random numbers.

    Returns: the picture, sRGB uint8 `[S, S, 3]`, and its matte, uint8 `[S, S]`.
    """
    size = light.shape[-1]
    blurred = _blur(np.concatenate([light, matte[None]]), strength, rng)
    image = _develop(blurred[:3], strength, rng)
    if rng.random() < 0.2 + 0.3 * strength:  # sharpening leaves halos
        halo = np.float32(rng.uniform(0.3, 0.6 + 0.8 * strength))
        image = image + halo * (image - soften(image, rng.uniform(0.6, 1.3) * size / 64))
    stored_side = round(size * rng.uniform(0.5, 0.9)) if rng.random() < 0.2 * strength else size
    quality = int(rng.integers(35, 93)) if rng.random() < 0.8 * strength else None
    image = _sensor_noise(image, strength, rng)
    image = np.rint(clip(image, 0, 1) * 255).astype(np.uint8)
    image = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    if stored_side < size:
        image = _lower_resolution(image, stored_side)
    if quality:
        image = _compress(image, quality)
    return image, np.rint(clip(blurred[3], 0, 1) * 255).astype(np.uint8)
