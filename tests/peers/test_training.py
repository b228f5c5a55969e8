"""Losses and optimizers against PyTorch's own."""

from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional

from configs import default
from resnet.architecture import Architecture
from training.loss import class_weights, classification_loss
from training.optimizer import make_optimizer

CLASSES, STEPS = 7, 5
RATES = (0.1, 0.05, 0.2, 0.1, 0.01)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [N, classes] and labels [N]."""
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal((64, CLASSES), np.float32), rng.integers(0, CLASSES, 64)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float, weighted: bool) -> None:
    logits, labels = batch()
    weights = class_weights(labels, CLASSES, "balanced") ** 3 if weighted else None
    expected = functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        weight=None if weights is None else torch.from_numpy(weights),
        label_smoothing=smoothing,
    )
    loss = classification_loss(
        logits, jax.nn.one_hot(labels, CLASSES), name="softmax", smoothing=smoothing, weights=weights
    )
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)


def test_binary_cross_entropy() -> None:
    logits, labels = batch()
    one_hot = functional.one_hot(torch.from_numpy(labels), CLASSES).float()
    expected = functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), one_hot)
    loss = classification_loss(logits, one_hot.numpy(), name="sigmoid")
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)


def kernel_and_gradients(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.standard_normal(shape, np.float32), rng.standard_normal((STEPS, *shape), np.float32)


def ours(kernel: np.ndarray, gradients: np.ndarray, **fields: object) -> np.ndarray:
    """Returns the kernel after an update by each of `gradients`."""
    config = default.get_config()
    config.optimizer.update(fields)
    schedule = optax.piecewise_constant_schedule(
        RATES[0], {i: RATES[i] / RATES[i - 1] for i in range(1, STEPS)}
    )
    optimizer = make_optimizer(config.optimizer, config.finetune, Architecture(), schedule)
    params = {"conv": {"kernel": kernel}}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"conv": {"kernel": gradient}}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["conv"]["kernel"])


def theirs(
    kernel: np.ndarray, gradients: np.ndarray, make: Callable[..., torch.optim.Optimizer]
) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.from_numpy(kernel.copy()))
    optimizer = make([parameter])
    for rate, gradient in zip(RATES, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize(
    ("fields", "make"),
    [
        (
            {"name": "sgd", "momentum": 0.9, "nesterov": True},
            lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, weight_decay=0.1),
        ),
        (
            {"name": "sgd", "momentum": 0.9, "nesterov": False},
            lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.1),
        ),
        ({"name": "adam", "b2": 0.99}, lambda p: torch.optim.Adam(p, betas=(0.9, 0.99), weight_decay=0.1)),
        ({"name": "adamw", "b2": 0.99}, lambda p: torch.optim.AdamW(p, betas=(0.9, 0.99), weight_decay=0.1)),
    ],
)
def test_optimizers(fields: dict, make: Callable) -> None:
    kernel, gradients = kernel_and_gradients((3, 3, 4, 8))
    actual = ours(kernel, gradients, weight_decay=0.1, **fields)
    np.testing.assert_allclose(actual, theirs(kernel, gradients, make), rtol=1e-4, atol=1e-5)


def test_muon() -> None:
    """PyTorch's takes matrices alone, and orthogonalises in bfloat16."""
    kernel, gradients = kernel_and_gradients((24, 40))
    expected = theirs(
        kernel,
        gradients,
        lambda p: torch.optim.Muon(
            p, momentum=0.9, nesterov=False, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
    )
    actual = ours(
        kernel.reshape(2, 3, 4, 40),
        gradients.reshape(STEPS, 2, 3, 4, 40),
        name="muon",
        momentum=0.9,
        nesterov=False,
        weight_decay=0.1,
    )
    moved = np.abs(expected - kernel).max()
    np.testing.assert_allclose(actual.reshape(24, 40), expected, atol=0.02 * moved)
