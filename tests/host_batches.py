"""What every step of a training sees on several hosts, as digests of the images of the whole batch.

`python -m tests.host_batches --config=configs/default.py --config.hosts...` prints a JSON object: for images
on the devices and for streamed ones, the digest of every step.
"""

import hashlib
import json
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

import datasets
from devices import hosts
from devices.mesh import by_replica, make_mesh
from input_pipeline import batches_of_call, make_epoch_order, place, steps_of_call, steps_per_epoch
from modes import load_modes
from modes.flags import define_flags, parse


def digests(config: ConfigDict) -> list[str]:
    """Returns the digest of the images and labels of every step."""
    mesh = make_mesh(config.batch_size, all_hosts=True)
    train = datasets.load(config.data).train
    data, per_epoch = place(train, config, mesh), steps_per_epoch(train, config.batch_size)
    order = jax.jit(make_epoch_order(train.labels, "shuffle"), out_shardings=by_replica(mesh))

    @jax.jit
    def batches(split: Any, permutation: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = batches_of_call(split, permutation, step, np.uint32(config.seed), config=config, mesh=mesh)
        return found.images, found.labels

    data.start(config.seed, 0)
    step, found = 0, []
    while step < per_epoch * config.num_epochs:
        permutation = order(np.uint32(config.seed), step // per_epoch)
        arrays = batches(data.batches(step), permutation, np.int32(step))
        whole = [np.asarray(multihost_utils.process_allgather(array, tiled=True)) for array in arrays]
        count = steps_of_call(step, per_epoch, config)
        for images, labels in zip(*(array[:count] for array in whole), strict=True):
            found.append(hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16])
        step += count
    data.close()
    return found


def main(argv: list[str]) -> None:
    """Prints the digests from the first host."""
    values = define_flags(argv, load_modes())
    parse(values, argv)
    config = values.config
    with hosts.together(config.hosts):
        found = {}
        for config.data.placement in ("device", "stream"):
            found[config.data.placement] = digests(config)
        if hosts.is_writer():
            print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv)
