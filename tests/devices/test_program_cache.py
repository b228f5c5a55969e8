"""When a second start reads the program that a first one traced, and when it must trace it again."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from devices import program_cache
from devices.mesh import BATCH_AXIS, make_mesh, replicated
from devices.program_cache import CachedProgram
from input_pipeline import DeviceSplit
from tests.runs import small_config
from train import init_state, make_run_steps
from training.network import make_network
from training.optimizer import learning_rate_schedule, make_optimizer

ROOT = Path(program_cache.__file__).parent.parent
SETTINGS = {"rate": 0.5}


class State(NamedTuple):
    step: jax.Array
    weights: dict[str, jax.Array]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, compilation_cache: str) -> Iterator[Path]:
    """The folder of traced programs, in an empty compilation cache of the test's own."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / program_cache.FOLDER
    jax.config.update("jax_compilation_cache_dir", compilation_cache)


class Start:
    """A start of the program: `run` is its function, `traced` counts how often that was traced."""

    def __init__(self, settings: dict = SETTINGS) -> None:
        self.traced = 0
        self.mesh = mesh = make_mesh(jax.local_device_count())

        def function(state: State, split: jax.Array, count: jax.Array) -> tuple[State, dict]:
            self.traced += 1
            split = jax.lax.with_sharding_constraint(split, NamedSharding(mesh, P(BATCH_AXIS)))
            weights = jax.tree.map(lambda w: w - settings["rate"] * count * split.mean(), state.weights)
            return State(state.step + count, weights), {"loss": jnp.sum(split), "accuracy": weights["a"]}

        jitted = jax.jit(function, donate_argnums=0, out_shardings=replicated(mesh))
        self.settings = settings, replicated(mesh)
        self.run = CachedProgram(jitted, ("loss", "accuracy"), *self.settings)

    def result(self, images: int = 8) -> list[np.ndarray]:
        """Returns the outputs of the second of two calls, which takes the state of the first."""
        split = jnp.arange(images, dtype=jnp.float32)
        state = State(jnp.int32(0), {"b": jnp.ones((2, 3)), "a": jnp.float32(7)})
        split, self.donated = jax.device_put((split, state), replicated(self.mesh))
        state, _ = self.run(self.donated, split, 0)
        return jax.tree.leaves(self.run(state, split, 2))


def test_second_start_does_not_trace_and_computes_the_same() -> None:
    first, second = Start(), Start()
    expected = first.result()
    assert first.traced == 1
    # In the order of the leaves: step, a, b, accuracy, loss.
    np.testing.assert_allclose(expected[0], 2)
    np.testing.assert_allclose(expected[1], 7 - 3.5)
    np.testing.assert_allclose(expected[2], np.full((2, 3), 1 - 3.5))
    np.testing.assert_allclose(expected[3:], [7 - 3.5, 28])
    for a, b in zip(expected, second.result(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert second.traced == 0


def test_a_program_is_prepared_from_shapes_alone() -> None:
    expected = Start().result()
    shutil.rmtree(jax.config.jax_compilation_cache_dir)
    start = Start()

    def abstract(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(start.mesh))

    weights = {"b": abstract((2, 3), "float32"), "a": abstract((), "float32")}
    start.run.prepare(State(abstract((), "int32"), weights), abstract((8,), "float32"), 0)
    for a, b in zip(expected, start.result(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert start.traced == 1


def test_prefetched_program_is_the_same() -> None:
    expected = Start().result()
    second = Start()
    program_cache.prefetch(*second.settings)
    for a, b in zip(expected, second.result(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert second.traced == 0


def test_prefetch_before_the_first_start_finds_nothing() -> None:
    start = Start()
    program_cache.prefetch(*start.settings)
    start.result()
    assert start.traced == 1


def test_prefetched_program_of_other_shapes_is_not_taken() -> None:
    Start().result()
    larger = Start()
    program_cache.prefetch(*larger.settings)
    np.testing.assert_allclose(larger.result(images=16)[-1], 120)
    assert larger.traced == 1


def test_state_is_donated_by_the_first_start_and_the_second() -> None:
    for _ in range(2):
        start = Start()
        start.result()
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.donated))


def test_other_settings_are_traced_anew() -> None:
    Start().result()
    other = Start({"rate": 2.0})
    np.testing.assert_allclose(other.result()[1], 7 - 14)
    assert other.traced == 1


def test_other_settings_of_jax_are_traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    Start().result()
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    other = Start()
    other.result()
    assert other.traced == 1


def test_other_shapes_under_the_same_settings_are_traced_anew() -> None:
    Start().result()
    larger = Start()
    np.testing.assert_allclose(larger.result(images=16)[-1], 120)
    assert larger.traced == 1


def test_changed_code_is_traced_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.py"
    file.write_text("width = 1\n")
    monkeypatch.setattr(program_cache, "traced_files", lambda: [file])
    Start().result()
    file.write_text("width = 2\n")
    changed = Start()
    changed.result()
    assert changed.traced == 1


def test_traced_files_are_all_that_training_imports_but_what_only_reads_and_writes() -> None:
    import train  # noqa: F401 - and with it all that it imports

    files = {Path(module.__file__) for module in sys.modules.values() if getattr(module, "__file__", None)}
    ours = {file for file in files if file.is_relative_to(ROOT) and "site-packages" not in file.parts}
    elsewhere = (
        "evaluation",
        "workdir",
        "configs",
        "datasets",
        "modes",
        "main.py",
        "tests",
        "benchmarks",
        "web",
    )
    traced = {file for file in ours if file.relative_to(ROOT).parts[0] not in elsewhere}
    assert ROOT / "resnet" / "model.py" in traced
    assert traced <= set(program_cache.traced_files())


def test_tracing_a_step_runs_code_of_traced_files_alone() -> None:
    ran = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        ran.add(frame.f_code.co_filename)

    run_steps, arguments = step_with_everything()
    sys.setprofile(note)
    try:
        run_steps.trace(*arguments)
    finally:
        sys.setprofile(None)
    ours = {Path(name) for name in ran if name.startswith(str(ROOT)) and "site-packages" not in name}
    assert ROOT / "resnet" / "model.py" in ours
    assert ROOT / "datasets" / "rendered" / "pixels.py" in ours
    assert ours - {Path(__file__)} <= set(program_cache.traced_files())


def step_with_everything() -> tuple[Any, tuple]:
    """Returns a training step with all augmentation, fine-tuning and a loss of weights; and its arguments."""
    config = small_config(batch_size=4, ema_decay=0.9, **{"model.depth": 16, "data.rendered_share": 0.5})
    config.augment.update({name: 0.1 for name, value in config.augment.items() if type(value) is float})
    config.augment.update(pad=1, policy="rand")
    config.update_from_flattened_dict(
        {
            "finetune.frozen": 1,
            "finetune.layer_decay": 0.5,
            "optimizer.l2_stem_and_head": 0.1,
            "optimizer.name": "muon",
            "optimizer.accumulate": 2,
            "model.stochastic_depth": 0.1,
            "loss.name": "sigmoid",
        }
    )
    mesh, network = make_mesh(4), make_network(config, 6)
    schedule = learning_rate_schedule(config.optimizer, num_epochs=2, steps_per_epoch=2)
    optimizer = make_optimizer(config.optimizer, config.finetune, network.architecture, schedule)
    run_steps = make_run_steps(network, optimizer, schedule, config=config, mesh=mesh)
    state = init_state(network.init(0), optimizer, with_average=True)
    images = np.zeros((12, 32, 32, 4), np.uint8)  # with mattes
    split = DeviceSplit(images, np.zeros(12, np.int32))
    return run_steps, (state, split, np.arange(8), np.uint32(0), 1)


@pytest.mark.parametrize("keep_bytes", [0, 100, -1])
def test_damaged_file_is_traced_anew_and_replaced(cache: Path, keep_bytes: int) -> None:
    Start().result()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:keep_bytes])
    start = Start()
    start.result()
    assert start.traced == 1
    again = Start()
    again.result()
    assert again.traced == 0


def test_flipped_bit_is_noticed(cache: Path) -> None:
    Start().result()
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    start = Start()
    start.result()
    assert start.traced == 1


def test_folder_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    assert len(Start().result()) == 5


def test_nothing_is_written_without_a_compilation_cache(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    assert len(Start().result()) == 5
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_where_the_cache_is_switched_off(tmp_path: Path) -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert len(Start().result()) == 5
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not list(tmp_path.iterdir())
