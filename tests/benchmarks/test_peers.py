"""The peers are the same network as ours, and each says what it lacks."""

import jax
import pytest
from flax import nnx

from benchmarks.contest import _chosen_peers
from benchmarks.peers import PEERS, Case, Peer
from errors import UserError

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


def test_a_peer_names_the_packages_it_lacks() -> None:
    assert Peer("module", ("json", "no_such_package")).missing() == ["no_such_package"]
    assert PEERS["ours"].missing() == []


def test_ours_always_takes_part() -> None:
    assert list(_chosen_peers("train", "cpu", ["flax"])) == ["ours", "flax"]
    assert "torch_jit" in _chosen_peers("inference", "cpu", None)
    assert "torch_cuda_graph" not in _chosen_peers("train", "cpu", None)


def test_an_unknown_peer_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--peers: found 'tourch'; .* expected some of flax, torch_eager"):
        _chosen_peers("train", "cpu", ["tourch"])
