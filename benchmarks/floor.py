"""The multiply-adds of a benchmark. Their time at the rate of a large matrix product is its floor."""

from resnet.architecture import BOTTLENECK_EXPANSION, STAGES


def forward_multiply_adds(depth: int, image_size: int, classes: int) -> tuple[int, int]:
    """Returns the multiply-adds of a v1.5 ResNet for one image, and of its first convolution alone.

    They count the forward pass: the convolutions, by their definition and with the padding, and the
    head. He et al. 2015 (arXiv:1512.03385), table 1, count in the same way.
    """
    blocks, kind = STAGES[depth]
    size = _halved(image_size)
    stem = size**2 * 7 * 7 * 3 * 64
    size = _halved(size)  # the max-pool
    total, in_features = stem, 64
    for stage, count in enumerate(blocks):
        features = 64 * 2**stage
        for index in range(count):
            before, size = size, _halved(size) if stage and not index else size
            if kind == "basic":
                out_features = features
                weights = size**2 * 9 * features * (in_features + features)
            else:
                out_features = features * BOTTLENECK_EXPANSION
                weights = before**2 * in_features * features
                weights += size**2 * features * (9 * features + out_features)
            if before != size or in_features != out_features:
                weights += size**2 * in_features * out_features
            total += weights
            in_features = out_features
    return total + in_features * classes, stem


def _halved(size: int) -> int:
    return (size + 1) // 2


def multiply_adds(task: str, depth: int, image_size: int, classes: int) -> int:
    """Returns the multiply-adds per image of `task`, "train" or "inference".

    A training step computes three products for each layer: the output, the gradient of the weights and the
    gradient of the input. The first convolution does not need the last one.
    """
    forward, stem = forward_multiply_adds(depth, image_size, classes)
    return forward if task == "inference" else 3 * forward - stem
