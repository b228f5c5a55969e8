"""A cache of traced programs, beside the cache in which JAX keeps compiled programs.

JAX finds a compiled program by its lowered form. So every start traces and lowers the program again, which
takes longer than all imports. Here the lowered form is found by a digest of what the program is made from.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from jax.sharding import NamedSharding

from resnet.files import write_whole

FOLDER = "lowered"  # in the folder of JAX's cache
PROJECT = Path(__file__).parent.parent
# The files that a training step is traced from. With more files, it would be traced anew too often.
TRACED_FILES = (
    "train.py",
    "input_pipeline.py",
    "training/*.py",
    "devices/*.py",
    "resnet/**/*.py",
    "datasets/types.py",
    "datasets/rendered/pixels.py",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Program(NamedTuple):
    """A lowered function of arrays of these shapes, see `_lower`."""

    shapes: tuple[tuple[int, ...], ...]
    lowered: jax.stages.Lowered


_compiling: dict[Path, tuple[Program, Future[jax.stages.Compiled]]] = {}


def prefetch(settings: dict[str, Any], sharding: NamedSharding) -> None:
    """Starts to load the program that `CachedProgram` will look for, while the caller goes on.

    The loader of XLA takes most of that time, and does not hold Python's lock.
    """
    file = _file(settings, sharding)
    if program := _read(file, sharding):
        thread = ThreadPoolExecutor(max_workers=1)
        _compiling[file] = program, thread.submit(program.lowered.compile)
        thread.shutdown(wait=False)  # It ends when the program is loaded.


class CachedProgram:
    """A jitted function (state, *arguments) -> (state, dictionary of arrays) whose state is donated.

    With a compilation cache, the first start that calls it traces the function, and later starts read it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        outputs: Sequence[str],
        settings: dict[str, Any],
        sharding: NamedSharding,
    ) -> None:
        """`outputs` are the names in the dictionary, `sharding` is the sharding of all outputs.

        `settings` (JSON) are everything that `function` depends on beside the code of the project and the
        devices.
        """
        self._function = function
        self._outputs = dict.fromkeys(outputs, 0)
        self._sharding = sharding
        self._file = _file(settings, sharding)
        self._preparing: Future[jax.stages.Compiled] | None = None

    def prepare(self, state: Any, *arguments: Any) -> None:
        """Starts to load or compile the program for such arguments, while the caller goes on.

        An array may be given as a `jax.ShapeDtypeStruct` with its sharding.
        """
        if self._preparing is None:
            thread = ThreadPoolExecutor(max_workers=1)
            self._preparing = thread.submit(self._prepare, state, *arguments)
            thread.shutdown(wait=False)  # It ends when the program is ready.

    def __call__(self, state: Any, *arguments: Any) -> tuple[Any, dict[str, jax.Array]]:
        """Calls the function with arrays, which always have the same shapes, dtypes and shardings."""
        self.prepare(state, *arguments)
        assert self._preparing is not None
        outputs = self._preparing.result()(*jax.tree.leaves((state, *arguments)))
        return jax.tree.unflatten(jax.tree.structure((state, self._outputs)), outputs)

    def _prepare(self, state: Any, *arguments: Any) -> jax.stages.Compiled:
        leaves, tree = jax.tree.flatten((state, *arguments))
        return self._find(leaves) or self._trace(tree, leaves, len(jax.tree.leaves(state)))

    def _find(self, leaves: Sequence[Any]) -> jax.stages.Compiled | None:
        program, compiling = _compiling.pop(self._file, (None, None))
        program = program or _read(self._file, self._sharding)
        if program is None or program.shapes != tuple(np.shape(leaf) for leaf in leaves):
            return None
        return compiling.result() if compiling else program.lowered.compile()

    def _trace(
        self, tree: jax.tree_util.PyTreeDef, leaves: Sequence[Any], donated: int
    ) -> jax.stages.Compiled:
        @partial(jax.jit, out_shardings=self._sharding)
        def function_of_leaves(*leaves: Any) -> list[jax.Array]:
            return jax.tree.leaves(self._function(*jax.tree.unflatten(tree, leaves)))

        exported = export.export(function_of_leaves)(*leaves)
        if self._file:
            content = zlib.compress(b"%d\n" % donated + exported.serialize(), level=1)
            # If it cannot be written, the next start is as slow as this one, and no more than that.
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._file, content)
        return _lower(exported, donated, self._sharding).lowered.compile()


def _read(file: Path | None, sharding: NamedSharding) -> Program | None:
    """Returns the program in `file`, or None if there is none or it is damaged."""
    if file is None:
        return None
    try:
        content = zlib.decompress(file.read_bytes())  # zlib notices damage.
    except (OSError, zlib.error):
        return None
    donated, _, serialized = content.partition(b"\n")
    return _lower(export.deserialize(bytearray(serialized)), int(donated), sharding)


def _lower(exported: export.Exported, donated: int, sharding: NamedSharding) -> Program:
    """Lowers what was traced now or read from the cache in the same way, so that both give the same bits."""
    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=of_argument)
        for aval, of_argument in zip(exported.in_avals, exported.in_shardings_jax(sharding.mesh), strict=True)
    ]
    jitted = jax.jit(exported.call, donate_argnums=tuple(range(donated)), out_shardings=sharding)
    return Program(tuple(argument.shape for argument in arguments), jitted.lower(*arguments))


def traced_files() -> list[Path]:
    """Returns the files of the project that programs are traced from."""
    return sorted(file for pattern in TRACED_FILES for file in PROJECT.glob(pattern))


def _file(settings: dict[str, Any], sharding: NamedSharding) -> Path | None:
    """Returns the file of the program, or None if there is no folder of compiled programs."""
    cache = jax.config.jax_compilation_cache_dir
    # The cache may be off, or be the address of a bucket.
    if not jax.config.jax_enable_compilation_cache or not cache or not os.path.isabs(cache):
        return None
    digest = hashlib.sha256()
    for file in traced_files():
        digest.update(file.read_bytes())
    devices = [jax.default_backend(), jax.devices()[0].device_kind, repr(sharding)]
    versions = [version(package) for package in PACKAGES]
    variables = sorted(item for item in os.environ.items() if item[0].startswith("JAX_"))
    digest.update(json.dumps([settings, devices, versions, variables]).encode())
    return Path(cache, FOLDER, digest.hexdigest())
