"""Meshes over the devices, for one run and for several seeds at once."""

import jax
import pytest

from devices.mesh import BATCH_AXIS, check_visible_devices, make_mesh
from resnet.errors import UserError


def test_mesh_needs_a_batch_that_divides_over_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices() * 3)
    count = len(jax.local_devices())
    with pytest.raises(
        UserError,
        match=rf"^config\.batch_size={count + 1}: does not divide over {count} devices;"
        rf" expected a multiple of {count}$",
    ):
        make_mesh(count + 1)
    assert make_mesh(2 * count).shape == {BATCH_AXIS: count}


def test_more_gpus_than_there_are_is_an_error() -> None:
    check_visible_devices("")
    with pytest.raises(UserError, match=r"^config\.gpu\.visible_devices=0,1: names 2 GPUs, but JAX sees 0;"):
        check_visible_devices("0,1")
