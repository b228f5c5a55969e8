"""Crops, erasing and policies against torchvision's own, on the same images and as distributions."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from tests.peers.torch_networks import torchvision
from training.boxes import random_boxes
from training.crops import RATIOS
from training.policies import LEVELS, Operation, apply_operations, strength_of, strongest_of

transforms = torchvision.transforms
POLICIES = {
    "trivial": (transforms.TrivialAugmentWide(), ()),
    "rand": (transforms.RandAugment(), ((224, 224),)),
}
NAMES = {name: "".join(word.capitalize() for word in name.name.split("_")) for name in Operation}


apply = jax.jit(apply_operations)


def in_their_units(operation: Operation, strength: np.ndarray) -> np.ndarray:
    """Converts a strength to torchvision's, or back: the bits to keep, the lowest value to invert."""
    if operation == Operation.POSTERIZE:
        return 8 - np.round(strength)
    return 255 - strength if operation == Operation.SOLARIZE else strength


def photographs(size: int) -> list[np.ndarray]:
    """Returns four images uint8 [size, size, 3], smooth and rough, dark and bright."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    images = []
    for roughness, base in ((2, 60), (15, 120), (40, 200), (5, 230)):
        waves = np.stack([np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y) for _ in range(3)], axis=-1)
        images.append(base + 55 * waves + rng.normal(0, roughness, (size, size, 3)))
    return [image.clip(0, 255).astype(np.uint8) for image in images]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("operation", Operation)
def test_operations_at_all_magnitudes(policy: str, operation: Operation) -> None:
    images, (peer, arguments) = photographs(224), POLICIES[policy]
    magnitudes, is_signed = peer._augmentation_space(LEVELS, *arguments)[NAMES[operation]]
    assert is_signed == (Operation.SHEAR_X <= operation <= Operation.SHARPNESS)
    levels = range(0, LEVELS, 3) if magnitudes.ndim else [0]
    shares = []
    for i, level in enumerate(levels):
        sign = -1 if is_signed and i % 2 else 1
        theirs = sign * float(magnitudes[level] if magnitudes.ndim else 0)
        strength = in_their_units(operation, np.full(4, theirs, np.float32))
        ours = np.asarray(apply(np.float32(images), np.full(4, operation), strength))
        nearest = transforms.InterpolationMode.NEAREST
        expected = [
            transforms.autoaugment._apply_op(Image.fromarray(image), NAMES[operation], theirs, nearest, None)
            for image in images
        ]
        difference = abs(ours - np.stack([np.asarray(image) for image in expected]))
        shares.append((difference > 0).any(-1).mean())
        if operation > Operation.ROTATE:
            assert difference.max() <= 1
    # Nearest neighbours differ where the source falls on the border between two pixels, as in shears of 0.2.
    print(f"{policy} {operation.name}: {np.mean(shares):.3%} of the pixels differ, at most {max(shares):.2%}")
    assert np.mean(shares) < 0.03


@pytest.mark.parametrize("policy", POLICIES)
def test_strengths_are_those_of_torchvision(policy: str) -> None:
    peer, arguments = POLICIES[policy]
    levels = np.arange(LEVELS, dtype=np.float32)
    for operation, (magnitudes, _) in zip(
        Operation, peer._augmentation_space(LEVELS, *arguments).values(), strict=True
    ):
        ours = strength_of(np.full(LEVELS, operation), levels, strongest_of(policy, 224))
        if magnitudes.ndim:
            np.testing.assert_allclose(
                in_their_units(operation, np.asarray(ours)), magnitudes, rtol=1e-6, atol=1e-6
            )


def test_names_are_those_of_torchvision_in_its_order() -> None:
    for peer, arguments in POLICIES.values():
        assert list(peer._augmentation_space(LEVELS, *arguments)) == list(NAMES.values())


def quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, np.linspace(0.05, 0.95, 10))


@pytest.mark.parametrize("kind", ["resized crop", "erasing"])
def test_boxes_are_distributed_as_torchvision_draws_them(kind: str) -> None:
    count, size = 10_000, 224
    torch.manual_seed(0)
    image = torch.zeros(3, size, size)
    if kind == "erasing":
        ours = {"areas": (0.02, 0.33), "ratios": (0.3, 3.3), "largest": size - 1}
        draw = partial(transforms.RandomErasing.get_params, image, (0.02, 0.33), (0.3, 3.3), [0.0])
    else:
        ours = {"areas": (0.08, 1.0), "ratios": RATIOS, "largest": size}
        draw = partial(transforms.RandomResizedCrop.get_params, image, [0.08, 1.0], list(RATIOS))
    theirs = np.array([draw()[:4] for _ in range(count)])
    boxes = np.stack(random_boxes(jax.random.key(0), count, size, **ours)[0], axis=1)
    for measure in (
        lambda box: box[:, 2] * box[:, 3] / size**2,
        lambda box: np.log(box[:, 2] / box[:, 3]),
        lambda box: box[:, 0] / size,
        lambda box: box[:, 1] / size,
    ):
        np.testing.assert_allclose(quantiles(measure(boxes)), quantiles(measure(theirs)), atol=0.025)
