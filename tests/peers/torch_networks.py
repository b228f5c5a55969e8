"""Residual networks of torchvision, timm and transformers, as these run and save them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.peers.torchvision_beside_torch import torchvision

# isort: split
# timm imports torchvision too, which must have been found by then.
import timm
import transformers
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import ResNet as TimmResNet

HUGGINGFACE_DEPTHS = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}


class TorchPeer:
    """A PyTorch network in evaluation mode, with random weights and statistics."""

    def __init__(self, model: nn.Module, stages: dict[str, str], seed: int = 0) -> None:
        """`stages` maps our name of a feature to the module whose output it is."""
        self.model = model.eval()
        self._outputs: dict[str, torch.Tensor] = {}
        for ours, theirs in stages.items():
            model.get_submodule(theirs).register_forward_hook(self._keep(ours))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.uniform_(-0.5, 0.5, generator=generator)
                    module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                    module.running_var.uniform_(0.5, 2.0, generator=generator)
                elif isinstance(module, nn.Conv2d):
                    fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
                    module.weight.normal_(0, (2 / fan_out) ** 0.5, generator=generator)
                elif isinstance(module, nn.Linear):
                    module.weight.normal_(0, 0.1, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            self._outputs[name] = output.detach().clone()

        return hook

    def round_to_half(self) -> None:
        """Rounds all weights to values of float16, which compress better."""
        self.model.half().float()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Logits and the stages' outputs for normalised `images` [N, H, W, 3]."""
        with torch.no_grad():
            output = self.model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
        logits = getattr(output, "logits", output)
        stages = {name: x.permute(0, 2, 3, 1).numpy() for name, x in self._outputs.items()}
        return {**stages, "logits": logits.numpy()}

    def save(self, path: Path) -> None:
        """Saves as the framework does: the state dict, or a folder with its configuration."""
        if isinstance(self.model, transformers.PreTrainedModel):
            self.model.save_pretrained(path)
        elif path.suffix == ".pth":
            torch.save(self.model.state_dict(), path)
        else:
            save_file(self.model.state_dict(), path)


TORCHVISION_STAGES = {"stem": "maxpool", **{f"stage{i}": f"layer{i}" for i in range(1, 5)}}
HUGGINGFACE_STAGES = {
    "stem": "resnet.embedder",
    **{f"stage{i}": f"resnet.encoder.stages.{i - 1}" for i in range(1, 5)},
}


def torchvision_peer(name: str, classes: int = 1000) -> TorchPeer:
    """`torchvision.models.<name>()`."""
    model = getattr(torchvision.models, name)(num_classes=classes)
    return TorchPeer(model, TORCHVISION_STAGES)


def timm_peer(name: str, classes: int = 1000) -> TorchPeer:
    """`timm.create_model(name)`."""
    return TorchPeer(timm.create_model(name, num_classes=classes), TORCHVISION_STAGES)


def narrow_timm_peer(width: int, classes: int) -> TorchPeer:
    """timm's ResNet-18 with `width` channels in its first stage."""
    channels = tuple(width * 2**stage for stage in range(4))
    model = TimmResNet(TimmBasicBlock, (2, 2, 2, 2), num_classes=classes, channels=channels, stem_width=width)
    return TorchPeer(model, TORCHVISION_STAGES)


def huggingface_peer(depth: int, classes: int = 1000, width: int = 64, v1: bool = False) -> TorchPeer:
    """transformers' `ResNetForImageClassification`."""
    expansion = 4 if depth >= 50 else 1
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[expansion * width * 2**stage for stage in range(4)],
        depths=HUGGINGFACE_DEPTHS[depth],
        layer_type="bottleneck" if depth >= 50 else "basic",
        downsample_in_bottleneck=v1,
        num_labels=classes,
    )
    return TorchPeer(transformers.ResNetForImageClassification(config), HUGGINGFACE_STAGES)
