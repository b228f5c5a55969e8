"""Weights of the Hugging Face Hub on the command line, against a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from tests.command_line import DEFAULT_CONFIG, Run, assert_refused, assert_succeeded
from tests.hub_server import Hub, hub_of_this_machine
from tests.runs import save_untrained_run
from tests.weights import HAND_SHAPES, narrow_config
from training.network import find_start
from workdir import settings
from workdir.settings import Sources

NAME = "somebody/hands"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of_this_machine(tmp_path / "hub") as hub:
        yield hub


def test_weights_of_the_hub_are_evaluated_and_named_with_their_commit(
    run: Run, hub: Hub, weights_file: Path, tmp_path: Path
) -> None:
    commit = hub.add(NAME, {"model.safetensors": weights_file.read_bytes()})
    photos = tmp_path / "photos"
    (photos / "n01440764").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(photos / "n01440764" / "a.png")
    result = run("--mode=eval", "--json", f"--weights=hf://{NAME}", photos)
    assert_succeeded(result)
    evaluation = json.loads(result.out)
    assert evaluation["images"] == 1
    assert evaluation["weights"] == f"hf://{NAME}@{commit}"


def test_a_run_that_started_from_the_hub_resumes_without_a_network(
    hub: Hub, weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, {"model.safetensors": weights_file.read_bytes()})
    config = narrow_config()
    config.init_from = f"hf://{NAME}"
    start = find_start(config, tmp_path / "run")
    assert start.pretrained is not None
    settings.save(start.config, HAND_SHAPES, tmp_path / "run", Sources(weights=start.digest))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_start(config, tmp_path / "run").digest == start.digest  # From the cache: no checkpoint yet.
    save_untrained_run(tmp_path / "run", start.config, HAND_SHAPES)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    assert find_start(config, tmp_path / "run").pretrained is None


@pytest.mark.parametrize("address", ["hf://onlyname", "hf://a/b@", "hf://a/../b"])
def test_a_wrong_address_is_refused_before_anything_is_loaded(run: Run, address: str, tmp_path: Path) -> None:
    for flags in (
        ["--mode=predict", "a.jpg", f"--weights={address}"],
        [DEFAULT_CONFIG, f"--workdir={tmp_path / 'run'}", f"--config.init_from={address}"],
    ):
        assert_refused(run(*flags), f"{flags[-1].partition('=')[0]}={address}: ")
