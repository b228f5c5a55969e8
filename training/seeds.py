"""Several seeds in one run: which of them are trained at once."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from devices import hosts
from resnet.checkpoint import newest_step
from resnet.run import seed_workdir


def trains_at_once(config: ConfigDict) -> bool:
    """Returns whether seeds are trained at once, as `config.seeds_together` chooses.

    `auto` says yes on accelerators and no on a CPU, where seeds are faster one after the other, see
    `benchmarks/replicas.py`. It also says no on several hosts, and for streamed images, as every seed needs a
    stream of its own. Whether `config.data.placement=auto` streams is known only with the images, see
    `train.Training`.
    """
    if config.seeds_together != "auto":
        return bool(config.seeds_together == "yes")
    is_streamed = config.data.placement == "stream"
    return not is_streamed and hosts.count() == 1 and jax.default_backend() != "cpu"


def group_seeds(config: ConfigDict, workdir: Path) -> list[list[int]]:
    """Returns `config.seeds` in groups, to be trained one group after the other, each as one program.

    Seeds that are trained at once must stand at the same step. Otherwise every seed is a group of its own.
    """
    if not trains_at_once(config):
        return [[seed] for seed in config.seeds]
    groups: dict[int | None, list[int]] = {}
    for seed in config.seeds:
        groups.setdefault(newest_step(seed_workdir(workdir, seed)), []).append(seed)
    return list(groups.values())
