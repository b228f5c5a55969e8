"""PyTorch: trains a small ResNet by a recipe of this project, and prints a JSON line after every epoch.

`python -m benchmarks.peers.torch_recipe RECIPE.json IMAGES.npz`: see `benchmarks.time_to_accuracy`, which
writes both, and which also asks for rounds of steps. The network comes from He et al. 2015
(arXiv:1512.03385), section 4.2, in plain `torch.nn`. It is channels last, which is PyTorch's fastest layout
here. Images lie in memory, and a batch is cropped and flipped by one gather, so that no loader has to be
waited for.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers import Case, Contestant
from benchmarks.peers.torch_resnet import set_up

EVALUATION_BATCH = 500


class Convolution(nn.Module):
    """A 3x3 convolution without bias, whose kernel is stored as a matrix: PyTorch's Muon takes nothing else.

    Its rows are outputs, its columns the pixels of the window and in them the inputs, so that the kernel is
    channels last.
    """

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(planes, 9 * inplanes))
        nn.init.normal_(self.weight, std=(2 / (9 * planes)) ** 0.5)  # He-normal by fan-out
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.weight.view(len(self.weight), 3, 3, -1).permute(0, 3, 1, 2)
        return functional.conv2d(x, kernel, stride=self.stride, padding=1)


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added, with zeros for new channels (option A)."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Convolution(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.more = stride, planes - inplanes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.more:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return functional.relu(y + x, inplace=True)


def make_network(depth: int, width: int, classes: int, *, zero_init_last: bool) -> nn.Sequential:
    """Returns the network of `depth` 6n + 2.

    With `zero_init_last` the last scale of every block starts at zero.
    """
    layers: list[nn.Module] = [
        Convolution(3, width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    planes = width
    for stage in range(3):
        for index in range((depth - 2) // 6):
            features = width * 2**stage
            layers.append(Block(planes, features, 2 if stage and not index else 1))
            planes = features
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(planes, classes))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Block) and zero_init_last:
            nn.init.zeros_(module.bn2.weight)
    return network


class Images:
    """Normalised images on the CPU, and batches of them, cropped after padding and flipped at random."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, recipe: dict[str, Any]) -> None:
        """Takes `images` uint8 [N, H, W, 3] and `labels` [N]."""
        mean, std = (255 * torch.tensor(recipe[name]) for name in ("mean", "std"))
        self._size, self._pad = images.shape[1], recipe["pad"]
        self._flip, self._batch = recipe["flip"], recipe["batch_size"]
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.plain = torch.from_numpy(images)
        self._mean, self._std = mean, std

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """Returns `images` uint8 [N, H, W, 3] as float32 [N, 3, H, W], channels last."""
        return ((images.float() - self._mean) / self._std).permute(0, 3, 1, 2)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields the full batches of an epoch in random order."""
        order = torch.randperm(len(self.labels))
        size, pad = self._size, self._pad
        padded = functional.pad(self.plain, (0, 0, pad, pad, pad, pad))
        steps = torch.arange(size)
        for start in range(0, len(order) - self._batch + 1, self._batch):
            chosen = order[start : start + self._batch]
            rows = torch.randint(0, 2 * pad + 1, (len(chosen), 1)) + steps
            columns = torch.randint(0, 2 * pad + 1, (len(chosen), 1)) + steps
            flipped = torch.rand(len(chosen), 1) < self._flip
            columns = torch.where(flipped, columns.flip(1), columns)
            crops = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield self.normalized(crops), self.labels[chosen]


def make_optimizers(network: nn.Module, recipe: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Returns SGD with momentum, or Muon for the convolutions and AdamW for the rest.

    Weight decay is for kernels alone.
    """
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    *convolutions, head = kernels
    decay = {"weight_decay": recipe["weight_decay"]}
    momentum = {name: recipe[name] for name in ("momentum", "nesterov")}
    if recipe["optimizer"] == "sgd":
        return [torch.optim.SGD([{"params": kernels, **decay}, {"params": others}], lr=0.0, **momentum)]
    betas = (recipe["b1"], recipe["b2"])
    return [
        torch.optim.Muon(convolutions, lr=0.0, adjust_lr_fn="match_rms_adamw", **decay, **momentum),
        torch.optim.AdamW(
            [{"params": [head], **decay}, {"params": others, "weight_decay": 0.0}],
            lr=0.0,
            betas=betas,
            eps=recipe["epsilon"],
        ),
    ]


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """Returns `images` [N, C, S, S] with `size` pixels a side; each is a weighted mean of what it covers."""
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Moves `average` towards the weights and the statistics of `network`."""
    decay = min(decay, step / (step + 9))
    ours = [tensor for tensor in average.state_dict().values() if tensor.is_floating_point()]
    new = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    torch._foreach_lerp_(ours, new, 1 - decay)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Images, flips: bool) -> float:
    """Returns the accuracy on `images`, with `flips` of the mean logits of an image and its mirror image."""
    network.eval()
    hits = 0
    for start in range(0, len(images.labels), EVALUATION_BATCH):
        batch = images.normalized(images.plain[start : start + EVALUATION_BATCH])
        logits = network(batch)
        if flips:
            logits = logits + network(batch.flip(3))
        hits += int((logits.argmax(1) == images.labels[start : start + EVALUATION_BATCH]).sum())
    return hits / len(images.labels)


class Training:
    """A network and the moving average of its weights, trained step by step from step `step` on."""

    def __init__(self, recipe: dict[str, Any], step: int = 0) -> None:
        """Starts from weights of the recipe's seed."""
        torch.manual_seed(recipe["seed"])
        self._recipe, self._step = recipe, step
        self._network = make_network(
            recipe["depth"], recipe["width"], recipe["classes"], zero_init_last=recipe["zero_init_last"]
        )
        self.average = deepcopy(self._network) if recipe["ema_decay"] else self._network
        self._optimizers = make_optimizers(self._network, recipe)
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=recipe["dtype"] == "bfloat16")
        self._early_steps = round(recipe["early_share"] * len(recipe["learning_rates"]))

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Makes a step on `images` [N, 3, H, W]; returns the loss."""
        recipe = self._recipe
        self._network.train()
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = recipe["learning_rates"][self._step]
        if self._step < self._early_steps:
            images = resized(images, recipe["early_size"])
        self._network.zero_grad(set_to_none=True)
        with self._autocast:
            logits = self._network(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=recipe["label_smoothing"])
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        self._step += 1
        if self.average is not self._network:
            update_average(self.average, self._network, self._step, recipe["ema_decay"])
        return loss.detach()


def train(recipe: dict[str, Any], train_images: Images, test_images: Images) -> None:
    """Trains, and prints the loss of the last batch and the test accuracy after every epoch."""
    training = Training(recipe)
    for epoch in range(1, recipe["epochs"] + 1):
        for images, labels in train_images.batches():
            loss = training.step(images, labels)
        score = accuracy(training.average, test_images, recipe["test_time_flip"])
        print(json.dumps({"epoch": epoch, "accuracy": score, "loss": loss.item()}), flush=True)


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant that trains by the recipe of `case`, on images of noise."""
    set_up("cpu")
    recipe = json.loads(Path(case.recipe).read_text()) | {"dtype": case.dtype}
    images = Images(case.images(case.dataset_size), case.labels(case.dataset_size), recipe)
    batches = (batch for _ in itertools.count() for batch in images.batches())
    training = Training(recipe, case.first_step)

    def run(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            training.step(*batch)

    return Contestant(run, training.parameters, "cpu")


def main(recipe_file: str, images_file: str) -> None:
    """Trains by the two files that `benchmarks.time_to_accuracy` writes."""
    set_up("cpu")
    recipe = json.loads(Path(recipe_file).read_text())
    with np.load(images_file, allow_pickle=False) as arrays:
        splits = [Images(arrays[f"{s}_images"], arrays[f"{s}_labels"], recipe) for s in ("train", "test")]
    train(recipe, *splits)


if __name__ == "__main__":
    main(*sys.argv[1:])
