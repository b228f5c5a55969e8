"""PyTorch: torchvision's ResNet in plain `torch.nn`, channels last; eager, compiled, captured or traced."""

import os
from collections.abc import Callable

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from benchmarks.peers import CLASSES, Case, Contestant

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
COMPILE_MODE = {
    "torch_compile": "default",
    "torch_max_autotune": "max-autotune",
    "torch_cuda_graph": "default",  # max-autotune takes longer than GPUs are lent for.
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 strides (v1.5)."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + identity)


class ResNet(nn.Module):
    """The `resnet18` ... `resnet152` of torchvision, with the same structure and names."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        block = Bottleneck if depth >= 50 else BasicBlock
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inplanes = 64
        for stage, count in enumerate(BLOCKS[depth], start=1):
            planes = 64 * 2 ** (stage - 1)
            layers = []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                outplanes = planes * block.expansion
                downsample = None
                if stride != 1 or inplanes != outplanes:
                    downsample = nn.Sequential(
                        nn.Conv2d(inplanes, outplanes, 1, stride, bias=False), nn.BatchNorm2d(outplanes)
                    )
                layers.append(block(inplanes, planes, stride, downsample))
                inplanes = outplanes
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inplanes, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def set_up(device: str) -> torch.device:
    """Sets what is fastest for `device`, cpu or gpu, and returns it."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda")


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant `name`."""
    device = set_up(case.device)
    model = ResNet(case.depth).to(device, memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = torch.from_numpy(case.normalized_images()).to(device).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    if case.task == "train":
        labels = torch.from_numpy(case.labels()).long().to(device)
        step = _make_train_step(name, case, model=model, images=images, labels=labels)
    else:
        step = _make_prediction(name, case, model, images)

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
            if case.task == "inference":
                synchronize(device)
        synchronize(device)

    peak = torch.cuda.max_memory_allocated if device.type == "cuda" else lambda: None
    return Contestant(run, parameters, device_name(device), peak)


def _make_train_step(
    name: str, case: Case, *, model: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], object]:
    device = images.device.type
    graph = name == "torch_cuda_graph"
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=graph)
    if name in COMPILE_MODE:
        model = torch.compile(model, mode=COMPILE_MODE[name])
    autocast = torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return _captured(step, lambda: optimizer.zero_grad(set_to_none=True)) if graph else step


def _captured(
    step: Callable[[], object], before_capture: Callable[[], object] = lambda: None
) -> Callable[[], object]:
    """Returns the whole step as one CUDA graph, captured as in PyTorch's notes on CUDA graphs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    before_capture()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _make_prediction(name: str, case: Case, model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    dtype = getattr(torch, case.dtype)
    model = fuse(model.eval()).to(dtype=dtype, memory_format=torch.channels_last)
    images = images.to(dtype)
    with torch.inference_mode():
        if name in COMPILE_MODE:
            model = torch.compile(model, mode=COMPILE_MODE[name])
        elif name == "torch_jit":
            traced = torch.jit.trace(model, images)
            model = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    @torch.inference_mode()
    def predict() -> torch.Tensor:
        return model(images)

    return _captured(predict) if name == "torch_cuda_graph" else predict
