"""Compiling with little optimisation, which makes tests several times faster.

Compiling takes nearly all of the time of tests that run small networks once.
"""

from collections.abc import Callable
from functools import partial

import jax


def _known_options() -> dict[str, int | bool]:
    """Returns those options for quick compilation that the installed jaxlib knows.

    Options come and go with its releases. In `XLA_FLAGS`, an unknown one would abort the process.
    """
    options: dict[str, int | bool] = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,  # JAX 0.12 no longer has it.
    }
    return {name: value for name, value in options.items() if _compiles({name: value})}


def _compiles(options: dict[str, int | bool]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


_OPTIONS = _known_options()

# For the environment variable XLA_FLAGS of programs that tests start.
QUICK_XLA_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in _OPTIONS.items())

quick_jit: Callable[..., Callable] = partial(jax.jit, compiler_options=_OPTIONS)
