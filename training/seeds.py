"""Several seeds in one run: which of them are trained at once."""

from collections.abc import Sequence
from pathlib import Path

import jax

from devices import hosts
from resnet.checkpoint import newest_step
from resnet.run import seed_workdir


def trains_at_once(choice: str) -> bool:
    """Returns whether seeds are trained at once for this choice of `config.seeds_together`.

    `auto` says no on a CPU, where one seed after the other is faster, see `benchmarks/replicas.py`, and on
    several hosts.
    """
    return choice == "yes" or (choice == "auto" and hosts.count() == 1 and jax.default_backend() != "cpu")


def group_seeds(seeds: Sequence[int], choice: str, workdir: Path) -> list[list[int]]:
    """Returns `seeds` in groups, to be trained one group after the other, each as one program.

    Seeds that are trained at once must stand at the same step. Otherwise every seed is a group of its own.
    `choice` is `config.seeds_together`.
    """
    if not trains_at_once(choice):
        return [[seed] for seed in seeds]
    groups: dict[int | None, list[int]] = {}
    for seed in seeds:
        groups.setdefault(newest_step(seed_workdir(workdir, seed)), []).append(seed)
    return list(groups.values())
