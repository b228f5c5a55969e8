"""Loads the items of a sequence ahead of their use, in threads or processes: Grain.

https://github.com/google/grain
"""

import multiprocessing
import os
import signal
import threading
from typing import Any, Protocol

from absl import flags

from datasets.threads import cores

MAX_THREADS = 16  # more would wait for the interpreter


class Items(Protocol):
    """A sequence whose items are loaded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> Any: ...


def read_ahead(source: Items, processes: int = 0) -> Any:
    """Returns an iterator over the items of `source`, in order. To `close` it ends what it started.

    They are loaded in threads or, for `processes` above 0, in so many processes. Then `source` is pickled.
    """
    import grain  # It takes a second, which training from the devices does without.

    if not processes:
        threads = min(cores(), MAX_THREADS)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        return iter(grain.MapDataset.source(source).to_iter_dataset(options))
    flags.FLAGS.mark_as_parsed()  # Grain asks for its own flags, which our command line does not have.
    # Python warns of shared memory that a signal left behind. It frees that memory itself.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    workers = grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=2)
    dataset = grain.MapDataset.source(_InProcess(source)).to_iter_dataset(options)
    return iter(dataset.mp_prefetch(workers))


class _InProcess:
    """The items as the loading processes receive them."""

    def __init__(self, source: Items) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, item: int) -> Any:
        return self._source[item]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if parent := multiprocessing.parent_process():
            import jax

            jax.config.update("jax_platforms", "cpu")  # The accelerator belongs to the training.
            # Ctrl-C also reaches the training, which ends this process.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Ends this process when `parent` has ended, which may have been killed."""
    parent.join()
    os._exit(1)
