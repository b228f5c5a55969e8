"""The floor of a benchmark: its multiply-adds at the rate that a large matrix product reaches."""

from resnet.architecture import BOTTLENECK_EXPANSION, STAGES


def forward_multiply_adds(depth: int, image_size: int, classes: int) -> tuple[int, int]:
    """Multiply-adds of one image's forward pass through a v1.5 ResNet, and those of its first convolution.

    Convolutions and the head, each convolution counted as the definition has it, padding included:
    He et al. 2015 (arXiv:1512.03385), table 1, count likewise.
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
    """Multiply-adds an image of `task`, "train" or "inference".

    A training step makes a product for the output, for the gradient of the weights and for that of the
    input, which the first convolution does without.
    """
    forward, stem = forward_multiply_adds(depth, image_size, classes)
    return forward if task == "inference" else 3 * forward - stem
