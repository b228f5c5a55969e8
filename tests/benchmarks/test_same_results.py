"""A benchmark that says whether the ways to compute a training step agree notices one that does not."""

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from benchmarks import same_results
from benchmarks.peers import Case, ours
from resnet.ops import convolution

CASE = Case("train", 18, 2, 32, "float32", "cpu", 1)


@pytest.fixture(autouse=True)
def a_narrow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    make_config = ours.make_config

    def narrow(case: Case) -> ConfigDict:
        config = make_config(case)
        config.model.update(depth=16, width=8)
        return config

    monkeypatch.setattr(ours, "make_config", narrow)


def test_a_wrong_lowering_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shifted by a pixel: a wrong scale would not do, as batch norm takes it out again."""
    right = convolution.winograd_3x3
    monkeypatch.setattr(convolution, "suits_narrow", lambda *_: False)
    found = []
    for shift in (0, 1):
        monkeypatch.setattr(
            convolution, "winograd_3x3", lambda *args, by=shift: jnp.roll(right(*args), by, axis=1)
        )
        convolution._conv2d.clear_cache()
        found.append(same_results.gradient_errors(CASE))
        convolution._conv2d.clear_cache()
    assert [errors["lax"] for errors in found] == [0, 0]
    assert found[0]["matmul"] < 1e-5
    assert found[1]["matmul"] > 1e-3
