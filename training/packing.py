"""Weights in a few long arrays, for GPUs, where each update of an array is a launch of its own.

A ResNet-50 has 161 arrays of parameters and 106 of statistics. Packed, the kernels are seven arrays and all
other parameters one. They still end in the names `kernel` and `other`, by which the optimizer finds the
kernels. Its moments are packed in the same way. The statistics of batch norm become one array.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet.network import Tree, Weights

KERNEL, OTHER, STATISTICS = "kernel", "other", "statistics"
# For each number, a GPU looks for the kernel whose gradient holds it, one kernel after the other.
KERNELS_IN_AN_ARRAY = 8

Name = tuple[int, str]  # of a packed array: its number and what it holds


class Layout(NamedTuple):
    """Where the leaves of a tree of this `structure` lie: the name of its array and the shape, for each."""

    structure: jax.tree_util.PyTreeDef
    names: Sequence[Name]
    shapes: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, tree: Tree, kind_of: Callable[[str], str]) -> "Layout":
        """Lays out `tree`; `kind_of` says what the last part of a leaf's name stands for."""
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        seen: Counter[str] = Counter()
        names = []
        for path, _ in leaves:
            kind = kind_of(path[-1].key)
            names.append((seen[kind] // KERNELS_IN_AN_ARRAY if kind == KERNEL else 0, kind))
            seen[kind] += 1
        return cls(jax.tree.structure(tree), names, [leaf.shape for _, leaf in leaves])

    @property
    def packed_structure(self) -> jax.tree_util.PyTreeDef:
        """The structure of the packed tree."""
        return jax.tree.structure(_nested(dict.fromkeys(self.names, 0)))

    def pack(self, tree: Tree) -> dict[int, dict[str, jax.Array]]:
        """Returns the leaves end to end, in an array [size] for each name."""
        parts: dict[Name, list[jax.Array]] = {name: [] for name in self.names}
        for name, leaf in zip(self.names, jax.tree.leaves(tree), strict=True):
            parts[name].append(leaf.reshape(-1))
        return _nested({name: jnp.concatenate(leaves) for name, leaves in parts.items()})

    def unpack(self, packed: dict[int, dict[str, jax.Array]]) -> Tree:
        """Returns the tree that was packed."""
        starts = dict.fromkeys(self.names, 0)
        leaves = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            number, kind = name
            stop = starts[name] + int(np.prod(shape))
            leaves.append(packed[number][kind][starts[name] : stop].reshape(shape))
            starts[name] = stop
        return jax.tree.unflatten(self.structure, leaves)


def _nested(arrays: Mapping[Name, Any]) -> dict[int, dict[str, Any]]:
    nested: dict[int, dict[str, Any]] = {}
    for (number, kind), array in arrays.items():
        nested.setdefault(number, {})[kind] = array
    return nested


class Packing:
    """Packs whatever has the structure of the weights, wherever it lies in a tree, and unpacks it."""

    def __init__(self, weights: Weights) -> None:
        """Takes the layout from `weights`."""
        self._layouts = (
            Layout.of(weights.params, lambda name: KERNEL if name == KERNEL else OTHER),
            Layout.of(weights.batch_stats, lambda _: STATISTICS),
        )

    def pack(self, tree: Any) -> Any:
        """Returns `tree`, such as a `TrainState`, with all parameters, moments and statistics packed."""
        layouts = {layout.structure: layout.pack for layout in self._layouts}
        return _replaced(tree, layouts)

    def unpack(self, tree: Any) -> Any:
        """Returns the `tree` that was packed, with the same bits."""
        layouts = {layout.packed_structure: layout.unpack for layout in self._layouts}
        return _replaced(tree, layouts)


class NoPacking:
    """Leaves every tree as it is."""

    def pack(self, tree: Any) -> Any:
        """Returns `tree`."""
        return tree

    def unpack(self, tree: Any) -> Any:
        """Returns `tree`."""
        return tree


NO_PACKING = NoPacking()


def _replaced(tree: Any, functions: Mapping[jax.tree_util.PyTreeDef, Callable[[Any], Any]]) -> Any:
    """Returns `tree` with each part whose structure has one of `functions` replaced by what that gives."""

    def replace(part: Any) -> Any:
        function = functions.get(jax.tree.structure(part))
        return function(part) if function else part

    return jax.tree.map(replace, tree, is_leaf=lambda part: jax.tree.structure(part) in functions)
