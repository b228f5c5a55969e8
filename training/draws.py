"""What a training step draws at random, each from a key of its own."""

from enum import IntEnum


class Draw(IntEnum):
    """Numbers that are folded into the key of a step; the split into four already draws what 0 to 3 would."""

    CROP = 4
    POLICY = 5
    ERASING = 6
    MIXING = 7
    STOCHASTIC_DEPTH = 8
