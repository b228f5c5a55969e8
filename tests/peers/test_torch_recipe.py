"""The network and the batches with which PyTorch takes part in `benchmarks.time_to_accuracy`."""

import numpy as np
import torch
from torch import nn

from benchmarks.peers.torch_recipe import Block, Images, make_network
from configs import cifar10
from resnet.network import Weights
from training.network import make_network as make_our_network


def copy_convolution(module: nn.Conv2d, weights: dict) -> None:
    module.weight.data = torch.from_numpy(np.array(weights["kernel"].transpose(3, 2, 0, 1)))


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
