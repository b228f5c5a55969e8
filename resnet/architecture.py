"""The members of the family of residual networks, each described by plain numbers and names."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from resnet.errors import UserError
from resnet.fields import Bounds, check_fields

# Blocks per stage and kind of block, by depth. Four stages: He et al. 2015 (arXiv:1512.03385), table 1, and
# He et al. 2016 (arXiv:1603.05027) for depth 200. Three stages, for small images: He et al. 2015, section 4.2
# (6n + 2 layers), He et al. 2016 (9n + 2), Zagoruyko & Komodakis 2016, arXiv:1605.07146 (6n + 4).
STAGES: dict[int, tuple[tuple[int, ...], Literal["basic", "bottleneck"]]] = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
    152: ((3, 8, 36, 3), "bottleneck"),
    200: ((3, 24, 36, 3), "bottleneck"),
    **{6 * n + 2: ((n, n, n), "basic") for n in (3, 5, 7, 9, 18)},
    **{9 * n + 2: ((n, n, n), "bottleneck") for n in (18,)},
    **{6 * n + 4: ((n, n, n), "basic") for n in (2, 4, 6)},
}
BOTTLENECK_DEPTHS = tuple(sorted(depth for depth, (_, kind) in STAGES.items() if kind == "bottleneck"))
BOTTLENECK_EXPANSION = 4

Variant = Literal["v1", "v1.5", "v2"]
Stem = Literal["7x7", "deep", "3x3"]
MaxPool = Literal["padded", "zero_padded", "unpadded", "none"]
ShortcutKind = Literal["projection", "zero_pad", "average_pool"]
StrideIn = Literal["first_block", "last_block"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "depth": tuple(sorted(STAGES)),
    "variant": get_args(Variant),
    "stem": get_args(Stem),
    "max_pool": get_args(MaxPool),
    "shortcut": get_args(ShortcutKind),
    "stride_in": get_args(StrideIn),
}
BOUNDS: dict[str, Bounds] = {
    # The widest networks in the literature are a sixteenth of these.
    "width": (1, 2**16),
    "stem_width": (0, 2**16),
    "groups": (1, 2**16),
    "widen": (1, 2**10),
    "squeeze": (0, 2**16),
    "norm_epsilon": (1e-12, 1),
}


@dataclass(frozen=True)
class Architecture:
    """A network of the family. The fields, and where they come from:

    - `variant`: `v1` He et al. 2015, bottleneck stride in the first 1x1; `v1.5` in the 3x3, as torchvision;
      `v2` pre-activation, He et al. 2016 (arXiv:1603.05027), figure 1 (b), the stem without norm.
    - `stem`: `7x7` stride 2; `deep` three 3x3, the first with stride 2: ResNet-C, He et al. 2018
      (arXiv:1812.01187), section 4.1; `3x3` stride 1, for small images: He et al. 2015, section 4.2.
    - `stem_width`: channels after the stem, 0 for `width`.
    - `max_pool`: 3x3, stride 2, after the stem. `zero_padded` counts the padding as zeros (which matters
      where no ReLU precedes: Keras V2), `unpadded` drops what does not fill a window (the first Keras).
    - `shortcut`, where the shape changes: `projection` 1x1 with stride: He et al. 2015, section 3.3, option
      B; `zero_pad` skipped pixels and channels of zeros: option A, theirs for small images; `average_pool`
      2x2 mean, then 1x1: ResNet-D, He et al. 2018, section 4.1.
    - `stride_in`: which block of a stage halves the map; the last one in Keras V2, which leaves the last
      stage without.
    - `groups`: of the 3x3 in bottlenecks: ResNeXt, Xie et al. 2017 (arXiv:1611.05431), section 3.
    - `widen`: factor on the inner channels of bottlenecks. Wide ResNet-50-2 (Zagoruyko & Komodakis 2016,
      section 3.4) is `widen=2`, ResNeXt-50 32x4d `groups=32, widen=2`, ResNeXt-101 32x8d `widen=4`.
      Networks of basic blocks are widened by `width`: WRN-28-10 is `width=160, stem_width=16`.
    - `squeeze`: reduction of squeeze-and-excitation in every block, 0 for none: Hu et al. 2018
      (arXiv:1709.01507), section 3, where it is 16.
    - `residual`: without, the plain network of the same depth.
    - `zero_init_last`: blocks start as the identity: Goyal et al. 2017 (arXiv:1706.02677), section 5.1.
    - `conv_bias`: convolutions that no norm follows have a bias, as in Keras V2.
    - `norm_epsilon`: added to the variance.
    """

    depth: int = 50
    width: int = 64
    variant: Variant = "v1.5"
    stem: Stem = "7x7"
    stem_width: int = 0
    max_pool: MaxPool = "padded"
    shortcut: ShortcutKind = "projection"
    stride_in: StrideIn = "first_block"
    groups: int = 1
    widen: int = 1
    squeeze: int = 0
    residual: bool = True
    zero_init_last: bool = False
    conv_bias: bool = False
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            UserError: a field has another type, is out of range, or does not go with another field.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        check_fields(values, defaults, CHOICES, BOUNDS)
        for name in ("groups", "widen"):
            if values[name] != 1 and not self.bottleneck:
                raise UserError(
                    f"{name}={values[name]}: needs blocks of three convolutions, but depth={self.depth} has"
                    f" basic blocks; expected a depth of {', '.join(map(str, BOTTLENECK_DEPTHS))},"
                    " or 1 and another width"
                )
        if (self.width * self.widen) % self.groups:
            raise UserError(
                f"groups={self.groups}: does not divide width x widen = {self.width * self.widen};"
                " expected a divisor of it"
            )
        if self.stride_in == "last_block" and not self.preactivation:
            raise UserError(
                f"stride_in=last_block: is the layout of pre-activation, but variant is {self.variant};"
                " expected first_block, or variant v2"
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of blocks in each stage."""
        return STAGES[self.depth][0]

    @property
    def bottleneck(self) -> bool:
        """Whether blocks are bottlenecks (1x1, 3x3, 1x1) rather than basic (3x3, 3x3)."""
        return STAGES[self.depth][1] == "bottleneck"

    @property
    def preactivation(self) -> bool:
        """Whether norm and ReLU come before each convolution of a block rather than after it."""
        return self.variant == "v2"

    @property
    def halvings(self) -> int:
        """How often the network halves the side of an image: in the stem, after it, and between stages."""
        return (self.stem != "3x3") + (self.max_pool != "none") + len(self.blocks) - 1

    def least_parameters(self) -> int:
        """Returns how many parameters the convolutions inside of the blocks have, without shortcuts."""
        total, channels = 0, self.stem_width or self.width
        if self.stem == "deep":
            total += 9 * (channels // 2) * (channels // 2 + channels)
        for stage, blocks in enumerate(self.blocks):
            inner, out = self.width * 2**stage, self.width * 2**stage
            if self.bottleneck:
                inner, out = inner * self.widen, out * BOTTLENECK_EXPANSION
                of_block = inner * (9 * inner // self.groups + out)
                total += inner * (channels + (blocks - 1) * out) + blocks * of_block
            else:
                total += 9 * out * (channels + (2 * blocks - 1) * out)
            channels = out
        return total

    def least_activations(self, image_size: int) -> int:
        """Returns how many numbers the outputs of the stem and of all blocks are, for one image."""
        side = image_size if self.stem == "3x3" else -(-image_size // 2)
        total = side**2 * (self.stem_width or self.width)
        if self.max_pool != "none":
            side //= 2
        for stage, blocks in enumerate(self.blocks):
            total += blocks * self.channels(stage + 1) * max(side // 2**stage, 1) ** 2
        return total

    def channels(self, stage: int) -> int:
        """The channels after `stage`, counted from 1."""
        return self.width * 2 ** (stage - 1) * (BOTTLENECK_EXPANSION if self.bottleneck else 1)

    def stride(self, stage: int, block: int) -> int:
        """The stride of `block` in `stage`, both counted from 1."""
        last_stage, last_block = len(self.blocks), self.blocks[stage - 1]
        if self.stride_in == "last_block":
            return 2 if block == last_block and stage < last_stage else 1
        return 2 if block == 1 and stage > 1 else 1
