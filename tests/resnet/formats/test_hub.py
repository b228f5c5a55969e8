"""Weights of the Hugging Face Hub, against a server on this machine: fetched, cached, checked, and pushed."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from safetensors.numpy import load_file, save_file

from resnet import Classifier, UserError, load_pretrained
from resnet.formats.hub import check_can_push, fetch, parse_address, push
from tests.hub_server import READER, WRITER, Hub, hub_of_this_machine
from tests.weights import HAND_SHAPES, narrow_config, random_weights
from training.network import make_network

NAME = "somebody/hands"
ADDRESS = f"hf://{NAME}"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of_this_machine(tmp_path) as hub:
        yield hub


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_network(narrow_config(), 3), random_weights(3), HAND_SHAPES)


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Hugging Face's with the weights of `classifier`."""
    return classifier.export(tmp_path_factory.mktemp("export"), "huggingface")


def refusal(address: str = ADDRESS) -> str:
    """Returns the error of fetching from `address`, which is one line."""
    with pytest.raises(UserError) as error:
        fetch(address)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_of_the_hub_predict_as_the_local_files_do(
    hub: Hub, classifier: Classifier, exported: Path
) -> None:
    hub.add(NAME, exported)
    loaded = load_pretrained(ADDRESS, convolution="lax")
    assert loaded.class_names == HAND_SHAPES
    np.testing.assert_allclose(
        loaded.probabilities(IMAGES), classifier.probabilities(IMAGES), rtol=0, atol=1e-6
    )


def test_only_what_is_needed_is_fetched_once(hub: Hub, exported: Path) -> None:
    files = {file.name: file.read_bytes() for file in exported.iterdir()}
    commit = hub.add(NAME, files | {"pytorch_model.bin": b"not read", "tf_model.h5": b"not read"})
    snapshot = fetch(ADDRESS)
    assert {file.name for file in snapshot.folder.iterdir()} == set(files)
    assert str(snapshot.address) == f"{ADDRESS}@{commit}"
    first = list(hub.requests)
    fetch(ADDRESS)
    assert hub.requests[len(first) :] == [("GET", f"/api/models/{NAME}/revision/main")]


def test_a_second_load_needs_no_network(hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, {name: (exported / name).read_bytes() for name in ("config.json", "model.safetensors")})
    snapshot = fetch(ADDRESS)
    hub.is_down = True
    assert fetch(ADDRESS) == snapshot
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(ADDRESS) == fetch(str(snapshot.address)) == snapshot
    assert len(hub.requests) == asked


def test_a_description_that_was_never_asked_for_is_not_taken_for_missing(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, exported)
    folder = fetch(ADDRESS).folder
    (folder / "preprocessor_config.json").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "preprocessor_config.json: is not in the cache" in refusal()


def test_a_revision_pins_the_weights(hub: Hub, exported: Path) -> None:
    old = hub.add(NAME, exported)
    hub.add(NAME, {"config.json": b"{}"})
    assert fetch(f"{ADDRESS}@{old}").address.revision == old
    assert "holds no weights that can be read" in refusal()


def test_weights_in_several_parts(hub: Hub, exported: Path, tmp_path: Path, classifier: Classifier) -> None:
    arrays = load_file(exported / "model.safetensors")
    names = sorted(arrays)
    parts = {"a.safetensors": names[:30], "b.safetensors": names[30:]}
    files = {"config.json": (exported / "config.json").read_bytes()}
    for part, inside in parts.items():
        save_file({name: arrays[name] for name in inside}, tmp_path / part)
        files[part] = (tmp_path / part).read_bytes()
    index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.add(NAME, files)
    weights = load_pretrained(ADDRESS).weights.named()
    np.testing.assert_allclose(weights["head.kernel"], classifier.weights.named()["head.kernel"])

    del files["b.safetensors"]
    hub.add(NAME, files)
    assert "names b.safetensors, which is missing" in refusal()


@pytest.mark.parametrize("outside", ["../../secret", "/etc/passwd", ".."])
def test_an_index_cannot_lead_out_of_the_repository(hub: Hub, outside: str) -> None:
    index = json.dumps({"weight_map": {"a": outside}}).encode()
    hub.add(NAME, {"model.safetensors.index.json": index})
    assert f"names the file {outside!r}; expected files in its own folder" in refusal()


def test_the_file_of_this_project_is_read(hub: Hub, classifier: Classifier, tmp_path: Path) -> None:
    file = classifier.export(tmp_path)
    hub.add(NAME, {file.name: file.read_bytes()})
    assert load_pretrained(ADDRESS).class_names == HAND_SHAPES


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("hf://onlyname", "names no repository"),
        ("hf://", "names no repository"),
        ("hf://a/b/c", "names no repository"),
        ("hf://a/..", "names no repository"),
        ("hf://a/b c", "names no repository"),
        ("hf://a/b\n", "names no repository"),
        (f"hf://a/{'b' * 96}", "names no repository"),
        ("hf://a/b@", "has '' for a revision"),
        ("hf://a/b@../x", "has '../x' for a revision"),
        ("hf://a/b@x y", "has 'x y' for a revision"),
    ],
)
def test_a_wrong_address_is_refused(address: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        parse_address(address)


def test_a_repository_or_a_revision_that_does_not_exist(hub: Hub, exported: Path) -> None:
    assert f"{ADDRESS}: no such repository, or a private one" in refusal()
    hub.add(NAME, exported)
    assert f"{ADDRESS}@v9: has no such revision" in refusal(f"{ADDRESS}@v9")


def test_private_and_gated_repositories_need_a_token(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, exported)
    hub.gated.add(NAME)
    assert "is gated; ask for access on its page, and log in by `hf auth login`" in refusal()
    hub.private.add(NAME)
    assert "or a private one; check the name, or log in by `hf auth login`, or set HF_TOKEN" in refusal()
    monkeypatch.setenv("HF_TOKEN", READER)
    assert fetch(ADDRESS).folder.is_dir()


def test_no_network_and_nothing_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.is_down = True
    assert "is not in the cache" in (line := refusal())
    assert "the Hub cannot be reached (HfHubHTTPError: " in line
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "(ConnectError: " in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal()


def test_a_connection_that_is_cut(hub: Hub, exported: Path) -> None:
    hub.add(NAME, exported)
    hub.cut.add("model.safetensors")
    assert "model.safetensors: the connection to the Hub failed" in refusal()
    hub.cut.clear()
    assert fetch(ADDRESS).folder.is_dir()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_digest_is_refused(name: str, hub: Hub, exported: Path) -> None:
    hub.add(NAME, exported)
    hub.damaged.add(name)
    line = refusal()
    assert f"{name} is damaged: its digest is " in line
    assert line == refusal()  # It is not read from the cache either.
    hub.damaged.clear()
    os.remove(line.partition("remove ")[2].partition(" and run")[0])
    assert fetch(ADDRESS).folder.is_dir()


def test_a_cache_that_cannot_be_written(
    hub: Hub, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, exported)
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert "cannot be written (Not a directory); name another folder by HF_HOME" in refusal()


def test_a_full_disk(hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    hub.add(NAME, exported)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert "cannot be written (No space left on device); free some space" in refusal()


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs the package huggingface_hub; install it: pip install huggingface_hub" in refusal()


# Pushing


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "README.md").write_text("---\ntags: [a]\n---\n")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return {name: tmp_path / name for name in ("README.md", "model.safetensors")}


def test_a_push_makes_a_private_repository_and_one_commit(
    hub: Hub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    check_can_push(NAME)
    made = push(files, NAME, "The network of a test")
    assert hub.private == {NAME}
    (commit,) = hub.commits
    assert commit["repository"] == NAME
    assert commit["summary"] == "The network of a test"
    assert commit["files"] == {name: file.read_bytes() for name, file in files.items()}
    assert made.url.endswith(f"/{NAME}/commit/{hub.branches[NAME]}")
    assert made.is_new_repository

    (files["README.md"]).write_text("---\ntags: [b]\n---\n")
    assert not push(files, NAME, "Once more").is_new_repository
    assert len(hub.commits) == 2


def test_a_push_deletes_what_an_earlier_one_wrote_for_another_network(
    hub: Hub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    operations: list[CommitOperationAdd | CommitOperationDelete] = []

    def commit(self: HfApi, repository: str, added_and_deleted: list, commit_message: str) -> SimpleNamespace:
        operations.extend(added_and_deleted)
        return SimpleNamespace(commit_url="")

    monkeypatch.setattr(HfApi, "create_commit", commit)
    hub.add(NAME, {"preprocessor_config.json": b"{}", "LICENSE": b"of the user", "README.md": b"old"})
    push(files, NAME, "message")
    deleted = [operation for operation in operations if isinstance(operation, CommitOperationDelete)]
    assert [operation.path_in_repo for operation in deleted] == ["preprocessor_config.json"]
    assert len(operations) == len(files) + 1


def push_refusal(files: dict[str, Path]) -> str:
    with pytest.raises(UserError) as error:
        push(files, NAME, "message")
    return str(error.value)


def test_a_push_without_a_right_commits_nothing(
    hub: Hub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"--push={NAME}: there is no token; log in by `hf auth login`"):
        check_can_push(NAME)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert f"--push={NAME}: this token has no right to it (HTTP 403: you may not write here)" in push_refusal(
        files
    )
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the Hub does not know this token (HTTP 401" in push_refusal(files)
    assert not hub.commits


def test_a_push_without_a_network(hub: Hub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    hub.breaks_uploads = True
    assert "the connection to the Hub failed (RemoteProtocolError" in push_refusal(files)
    hub.is_down = True
    assert "the Hub is busy or down (HTTP 503" in push_refusal(files)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "the connection to the Hub failed (ConnectError" in push_refusal(files)
    assert not hub.commits


@pytest.mark.parametrize("name", ["hands", "a/b/c", "a/..", "a/b@v1", "a b/c", "a/b.git", ""])
def test_a_name_that_no_repository_can_have(name: str) -> None:
    with pytest.raises(UserError, match=r"is no name of a repository; expected owner/name"):
        check_can_push(name)
