"""What the program puts into the environment before JAX starts."""

import os

import pytest
from ml_collections import ConfigDict

from configs import default
from devices import environment
from tests.command_line import run_program

NAMES = (
    "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_ENABLE_COMPILATION_CACHE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the variables from the tests, and undoes what these set."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back, even where it was not set
        monkeypatch.delenv(name)


def gpu_with(**fields: object) -> ConfigDict:
    gpu = default.get_config().gpu
    gpu.update(fields)
    return gpu


def prepared(gpu: ConfigDict, *, training: bool, compilation_cache: bool = False) -> dict[str, str]:
    """Returns the variables that are set."""
    environment.prepare(gpu, compilation_cache=compilation_cache, training=training)
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_training_takes_its_devices_and_its_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")  # The old name of the variable.
    gpu = gpu_with(memory_fraction=0.5, visible_devices="0,1", preallocate=True)
    assert prepared(gpu, training=True) == {
        "XLA_CLIENT_MEM_FRACTION": "0.5",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }


def test_other_modes_leave_devices_and_memory_to_others() -> None:
    gpu = gpu_with(memory_fraction=0.5, visible_devices="0,1", preallocate=True)
    assert prepared(gpu, training=False) == {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }


@pytest.mark.parametrize("training", [True, False])
def test_what_changes_numbers_holds_for_every_mode(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    variables = prepared(gpu_with(deterministic=True, matmul_precision="highest"), training=training)
    assert variables["XLA_FLAGS"] == "--mine --xla_gpu_deterministic_ops=true"
    assert variables["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"


def test_compiled_programs_are_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    variables = prepared(gpu_with(), training=True, compilation_cache=True)
    assert variables["JAX_COMPILATION_CACHE_DIR"] == "/cache/resnet-signs/jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    variables = prepared(gpu_with(), training=True, compilation_cache=True)
    assert variables["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert "JAX_COMPILATION_CACHE_DIR" not in prepared(gpu_with(), training=True, compilation_cache=True)


def test_a_cache_that_is_switched_off_is_not_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    assert "JAX_ENABLE_COMPILATION_CACHE" not in prepared(gpu_with(), training=True, compilation_cache=True)
    prepared(gpu_with(), training=True, compilation_cache=False)
    code = "import jax; print(jax.config.jax_enable_compilation_cache)"
    assert run_program("-c", code, environment=os.environ).stdout == "False\n"


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("JAX_PLATFORMS", "abacus", "JAX cannot start on it"),
        ("XLA_FLAGS", "--xla_no_such_flag=1", "Unknown flag"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=many", "many"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=0", "JAX cannot start on it"),
        ("XLA_FLAGS", "no_such_file", "no_such_file"),
    ],
)
def test_what_jax_cannot_start_with_is_refused(variable: str, value: str, part: str) -> None:
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | {variable: value}
    code = "import sys, resnet.errors as e, devices.environment as d; sys.exit(e.exit_code(d.check))"
    result = run_program("-c", code, environment=variables)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2
    assert f"{variable}={value}: " in line.replace("JAX_PLATFORMS=cpu ", "")
    assert part in line
    if "cannot start" in line:
        assert "it found cpu" in line
