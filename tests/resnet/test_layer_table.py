"""The table of layers against counts worked out by hand from the paper's table 1."""

import jax
import pytest

from modes.summary import format_layers
from resnet.layer_table import Layer, list_layers
from tests.resnet.networks import make_network

# As torchvision states them for 1,000 classes at 224 pixels (its figures are in units of 10^9).
PUBLISHED = {
    18: (11_689_512, 1.814),
    34: (21_797_672, 3.664),
    50: (25_557_032, 4.089),
    101: (44_549_160, 7.801),
    152: (60_192_808, 11.514),
}


def layers_of(depth: int, num_classes: int = 6, **changes: object) -> list[Layer]:
    return list_layers(make_network(num_classes, **{"depth": depth, "width": 64} | changes))


def totals(layers: list[Layer]) -> tuple[int, int]:
    return sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_totals_are_the_published_ones(depth: int) -> None:
    parameters, multiply_adds = totals(layers_of(depth, 1000, image_size=224))
    published = PUBLISHED[depth]
    assert parameters == published[0]
    assert round(multiply_adds / 1e9, 3) == published[1]


def multiply_adds_of_resnet50(v1: bool) -> int:
    """Every convolution of He et al. 2015, table 1, 50 layers, written out."""
    total = 49 * 3 * 64 * 112**2
    in_channels, side = 64, 56
    for stage, (blocks, middle) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        out_channels = 4 * middle
        for block in range(blocks):
            out_side = side // 2 if block == 0 and stage > 0 else side
            first_side = out_side if v1 else side
            total += in_channels * middle * first_side**2
            total += 9 * middle * middle * out_side**2
            total += middle * out_channels * out_side**2
            if block == 0:
                total += in_channels * out_channels * out_side**2
            in_channels, side = out_channels, out_side
    return total + 2048 * 1000


@pytest.mark.parametrize("variant", ["v1", "v1.5"])
def test_multiply_adds_of_resnet50_by_hand(variant: str) -> None:
    layers = layers_of(50, 1000, image_size=224, variant=variant)
    assert totals(layers)[1] == multiply_adds_of_resnet50(v1=variant == "v1")


def test_rows_come_in_the_order_in_which_layers_run() -> None:
    layers = layers_of(18)
    names = [layer.name for layer in layers]
    assert names[:4] == ["stem_conv", "stem_norm", "max_pool", "stage1.block1.conv1"]
    assert names[-2:] == ["mean_pool", "head"]
    start = names.index("stage2.block1.conv1")
    assert names[start : start + 6] == [
        f"stage2.block1.{layer}"
        for layer in ("conv1", "norm1", "conv2", "norm2", "shortcut.conv", "shortcut.norm")
    ]
    shapes = {layer.name: layer.output_shape for layer in layers}
    assert shapes["stem_conv"] == (32, 32, 64)
    assert shapes["max_pool"] == (16, 16, 64)
    assert shapes["stage4.block2.norm2"] == (2, 2, 512)
    assert shapes["mean_pool"] == (512,)
    assert shapes["head"] == (6,)


@pytest.mark.parametrize("residual", [True, False])
def test_parameters_are_those_of_the_network_that_trains(residual: bool) -> None:
    changes = {"depth": 34, "width": 8, "residual": residual}
    params = make_network(6, **changes).init(0).params
    assert totals(layers_of(**changes))[0] == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_table_ends_with_the_totals() -> None:
    layers = layers_of(18)
    lines = format_layers(layers).splitlines()
    assert " ".join(lines[2].split()) == "stem_conv N x 32 x 32 x 64 9,408 9,633,792"
    assert lines[-1].split() == ["total", *(f"{total:,}" for total in totals(layers))]
