"""The peers build the same network as we do, and report missing packages."""

import json
from pathlib import Path

import jax
import pytest
from flax import nnx

from benchmarks.contest import _select_peers
from benchmarks.peers import PEERS, Case, Peer, ours
from resnet.errors import UserError

PARAMETERS = {18: 11_179_590, 50: 23_520_326}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_stock_flax_has_our_parameters(depth: int) -> None:
    from benchmarks.peers.stock_flax import _build

    case = Case("train", depth, 2, 32, "float32", "cpu", 1)
    params = nnx.state(nnx.eval_shape(lambda: _build(case)), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[depth]


@pytest.mark.parametrize("depth", PARAMETERS)
def test_torch_has_our_parameters(depth: int) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.peers.torch_resnet import ResNet

    with torch.device("meta"):
        model = ResNet(depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[depth]


def test_our_steps_follow_a_recipe(tmp_path: Path) -> None:
    arguments = ["--config=configs/cifar10.py", "--config.batch_size=4", "--config.num_epochs=4",
                 "--config.steps_per_call=2", "--config.ema_decay=0.9"]  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps({"arguments": arguments}))
    recipe = str(tmp_path / "recipe.json")
    case = Case("train", 20, 4, 32, "float32", "cpu", 2, dataset_size=12, recipe=recipe, first_step=3)
    contestant = ours.make("ours", case)
    assert contestant.parameters == 269_722 - 4 * 65  # of ten classes, less four outputs of the head
    state = contestant.run(4)  # The second epoch ends after three steps.
    assert state.step == 7
    assert state.ema is not None


def test_a_peer_lists_the_packages_that_are_missing() -> None:
    assert Peer("module", ("json", "no_such_package")).missing() == ["no_such_package"]
    assert PEERS["ours"].missing() == []


def test_this_project_always_takes_part() -> None:
    assert list(_select_peers("train", "cpu", ["flax"])) == ["ours", "flax"]
    assert "torch_jit" in _select_peers("inference", "cpu", None)
    assert "torch_cuda_graph" not in _select_peers("train", "cpu", None)


def test_an_unknown_peer_is_reported_in_one_line() -> None:
    with pytest.raises(
        UserError, match=r"--peers=tourch: no such peer .* expected some of flax, torch_eager"
    ):
        _select_peers("train", "cpu", ["tourch"])
