"""The network and the batches with which PyTorch takes part in `benchmarks.time_to_accuracy`."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.peers import Case, torch_recipe
from benchmarks.peers.torch_recipe import Block, Convolution, Images, make_network, make_optimizers, resized
from benchmarks.time_to_accuracy import make_recipe
from configs import cifar10, cifar10_short
from resnet.architecture import Architecture
from resnet.network import Weights
from training.network import make_network as make_our_network
from training.optimizer import make_optimizer


def copy_convolution(module: Convolution, weights: dict) -> None:
    kernel = weights["kernel"]
    module.weight.data = torch.from_numpy(kernel.transpose(3, 0, 1, 2).reshape(kernel.shape[-1], -1).copy())


def copy_norm(module: nn.BatchNorm2d, params: dict, batch_stats: dict) -> None:
    for name, value in (("weight", params["scale"]), ("bias", params["bias"])):
        getattr(module, name).data = torch.from_numpy(np.array(value))
    module.running_mean = torch.from_numpy(np.array(batch_stats["mean"]))
    module.running_var = torch.from_numpy(np.array(batch_stats["var"]))


def test_the_network_is_ours() -> None:
    config = cifar10.get_config()
    config.compute_dtype = "float32"
    ours = make_our_network(config, 10)
    rng = np.random.default_rng(0)
    weights = Weights.from_named(
        {name: rng.uniform(0.5, 1.5, array.shape).astype(np.float32) if array.ndim == 1 else 3 * array
         for name, array in ours.init(0).named().items()}
    )  # fmt: skip
    params, batch_stats = weights
    theirs = make_network(20, 16, 10, zero_init_last=False).eval()
    copy_convolution(theirs[0], params["stem_conv"])
    copy_norm(theirs[1], params["stem_norm"], batch_stats["stem_norm"])
    blocks = [module for module in theirs if isinstance(module, Block)]
    names = [(f"stage{stage}", f"block{block}") for stage in (1, 2, 3) for block in (1, 2, 3)]
    for module, (stage, block) in zip(blocks, names, strict=True):
        for i in (1, 2):
            copy_convolution(getattr(module, f"conv{i}"), params[stage][block][f"conv{i}"])
            norm = f"norm{i}"
            copy_norm(getattr(module, f"bn{i}"), params[stage][block][norm], batch_stats[stage][block][norm])
    theirs[-1].weight.data = torch.from_numpy(np.array(params["head"]["kernel"].T))
    theirs[-1].bias.data = torch.from_numpy(np.array(params["head"]["bias"]))
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 269_722

    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    recipe = {"mean": config.data.mean, "std": config.data.std, "pad": 4, "flip": 0.5, "batch_size": 2}
    with torch.no_grad():
        logits = theirs(Images(images, np.zeros(6), recipe).normalized(torch.from_numpy(images)))
    expected, _, _ = ours.apply(weights, images, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_batches_are_shifted_and_flipped_by_chance() -> None:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3) + 1
    recipe = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "pad": 1, "flip": 0.5, "batch_size": 400}
    images = Images(np.repeat(image, 400, axis=0), np.zeros(400), recipe)
    [(batch, _)] = list(images.batches())
    seen = {crop.tobytes() for crop in batch.permute(0, 2, 3, 1).round().byte().numpy()}
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
    crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    assert seen == {np.ascontiguousarray(c).tobytes() for crop in crops for c in (crop, crop[:, ::-1])}


def in_their_order(tree: dict) -> list[np.ndarray]:
    """Returns the leaves of a convolution, a norm and a head, as PyTorch has them."""
    matrix = np.array(tree["conv"]["kernel"]).transpose(3, 0, 1, 2).reshape(4, -1)
    head = np.array(tree["head"]["kernel"]).T
    others = (tree["norm"]["scale"], tree["norm"]["bias"], head, tree["head"]["bias"])
    return [matrix, *(np.array(leaf) for leaf in others)]


@pytest.mark.parametrize(("name", "tolerance"), [("sgd", 1e-4), ("muon", 0.05)])
def test_the_updates_are_ours(name: str, tolerance: float) -> None:
    """PyTorch's Muon makes its products in bfloat16, and does not correct the average for its zero start."""
    recipe = {"optimizer": name, "momentum": 0.9, "nesterov": True, "b1": 0.9, "b2": 0.99, "epsilon": 1e-8,
              "weight_decay": 0.1}  # fmt: skip
    config = cifar10.get_config()
    config.optimizer.update(name=name, **{key: recipe[key] for key in recipe if key != "optimizer"})
    rate = 0.01
    ours = make_optimizer(config.optimizer, config.finetune, Architecture(depth=20), lambda step: rate)
    theirs = nn.Sequential(Convolution(3, 4), nn.BatchNorm2d(4), nn.Linear(4, 5))
    optimizers = make_optimizers(theirs, recipe)
    rng = np.random.default_rng(0)
    kernel, norm, bias, head, head_bias = (np.array(p.detach()) for p in theirs.parameters())
    params = {
        "conv": {"kernel": kernel.reshape(4, 3, 3, 3).transpose(1, 2, 3, 0)},
        "norm": {"scale": norm, "bias": bias},
        "head": {"kernel": head.T, "bias": head_bias},
    }
    state, moved = ours.init(params), jax.tree.map(np.copy, params)
    drift = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), params)
    update = jax.jit(ours.update)
    for _ in range(60):
        gradients = jax.tree.map(
            lambda mean: mean + rng.standard_normal(mean.shape).astype(np.float32), drift
        )
        updates, state = update(gradients, state, moved)
        moved = jax.tree.map(np.add, moved, updates)
        for parameter, gradient in zip(theirs.parameters(), in_their_order(gradients), strict=True):
            parameter.grad = torch.from_numpy(gradient)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    found = [np.array(parameter.detach()) for parameter in theirs.parameters()]
    for a, b, start in zip(found, in_their_order(moved), in_their_order(params), strict=True):
        assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b - start)


def test_images_become_smaller_as_here() -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    ours = jax.image.resize(images, (2, 24, 24, 3), "linear")
    theirs = resized(torch.from_numpy(images).permute(0, 3, 1, 2), 24).permute(0, 2, 3, 1)
    np.testing.assert_allclose(theirs, ours, atol=1e-2)


def test_a_round_of_steps_follows_the_recipe(tmp_path: Path) -> None:
    config = cifar10_short.get_config()
    config.update(num_epochs=4, batch_size=4)
    recipe = make_recipe(config, classes=10, train_size=12, dtype="float32")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    case = Case("train", 20, 4, 32, "float32", "cpu", 2, dataset_size=12,
                recipe=str(tmp_path / "recipe.json"), first_step=4)  # fmt: skip
    contestant = torch_recipe.make("torch_recipe", case)
    assert contestant.parameters == 269_722
    contestant.run(8)  # up to the last one; smaller images up to the eighth
    with pytest.raises(IndexError):
        contestant.run(1)
