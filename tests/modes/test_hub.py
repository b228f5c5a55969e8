"""Weights of the Hugging Face Hub on the command line, against a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from resnet import load_pretrained
from tests.command_line import DEFAULT_CONFIG, Run, assert_refused, assert_succeeded, flags_of
from tests.hub_server import WRITER, Hub, hub_of_this_machine
from tests.runs import save_untrained_run
from tests.weights import HAND_SHAPES, narrow_config, random_weights
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
    fields = {"init_from": f"hf://{NAME}", "model.convolution": "lax"}
    result = run("--mode=eval", "--json", DEFAULT_CONFIG, *flags_of(fields), photos)
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


# Pushing


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes that never trained."""
    workdir = tmp_path_factory.mktemp("push") / "run"
    return save_untrained_run(workdir, narrow_config(), HAND_SHAPES, random_weights(3))


def test_an_export_is_pushed_in_one_commit_and_loaded_from_there(
    run: Run, hub: Hub, hands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    flags = ("--format=huggingface", f"--push={NAME}", "--license=mit")
    result = run("--mode=export", f"--workdir={hands}", *flags)
    assert_succeeded(result)
    folder = hands / "export" / "huggingface"
    (commit,) = hub.commits
    assert commit["files"] == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(commit["files"]) == {
        "README.md", "config.json", "model.onnx", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    *_, pushed, private = result.out.splitlines()
    assert pushed.startswith("pushed: http://127.0.0.1:")
    assert pushed.endswith(f"/{NAME}/commit/{hub.branches[NAME]}")
    assert private.startswith("its repository is new, and private; to publish it, ")
    card = commit["files"]["README.md"].decode()
    assert "\nlicense: mit\n" in card
    assert f'load_pretrained("hf://{NAME}")' in card
    assert 'InferenceSession("model.onnx")' in card
    assert load_pretrained(f"hf://{NAME}").class_names == HAND_SHAPES


def test_what_is_read_again_differently_is_not_pushed(
    run: Run, hub: Hub, hands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("modes.export.LARGEST_DIFFERENCE", -1.0)
    monkeypatch.setattr("modes.export.find_spec", lambda package: None)
    result = run("--mode=export", f"--workdir={hands}", "--format=huggingface", f"--push={NAME}")
    assert result.code == 2
    assert "nothing was pushed" in result.err
    assert not any(method == "POST" for method, _ in hub.requests)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--push=a/b"], "--push: is for --format=huggingface, not for safetensors; leave it out"),
        (["--license=mit", "--format=keras"], "--license: is for --format=huggingface, not for keras"),
        (["--format=huggingface", "--push=hands"], "--push=hands: is no name of a repository"),
        (["--format=huggingface", "--push="], "--push=: is no name of a repository"),
        (["--format=huggingface", "--push=a/b"], "--push=a/b: there is no token; log in by `hf auth login`"),
        (["--format=huggingface", "--license=MIT: x"], "--license=MIT: x: expected an identifier of the Hub"),
    ],
)
def test_what_a_push_refuses(flags: list[str], line: str, run: Run, hub: Hub, hands: Path) -> None:
    assert_refused(run("--mode=export", f"--workdir={hands}", *flags), line)
    assert not hub.requests
