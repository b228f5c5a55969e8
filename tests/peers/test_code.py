"""PyTorch's own files that hold code beside weights: refused, and nothing of it run."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resnet.errors import UserError
from resnet.pretrained import read_pretrained
from tests.resnet.formats.test_reading import Code


def state_dict() -> dict[str, torch.Tensor]:
    return {"conv1.weight": torch.zeros(64, 3, 7, 7)}


def save_zipped(code: Code, path: Path) -> None:
    torch.save({**state_dict(), "epoch": code}, path)


def save_as_before(code: Code, path: Path) -> None:
    torch.save({**state_dict(), "epoch": code}, path, _use_new_zipfile_serialization=False)


def save_wrapped(code: Code, path: Path) -> None:
    torch.save({"state_dict": state_dict(), "args": code}, path)


def save_model(code: Code, path: Path) -> None:
    model = torch.nn.Conv2d(3, 64, 7)
    model.code = code
    torch.save(model, path)


def save_pickle(code: Code, path: Path) -> None:
    path.write_bytes(pickle.dumps(code, protocol=2))


@pytest.mark.parametrize("save", [save_zipped, save_as_before, save_wrapped, save_model, save_pickle])
def test_code_is_refused_and_not_run(save: Callable[[Code, Path], None], tmp_path: Path) -> None:
    path, marker = tmp_path / "resnet18.pth", tmp_path / "marker"
    save(Code(marker), path)
    with pytest.raises(UserError) as caught:
        read_pretrained(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: holds code beside weights (")
    assert "none of it was run; expected tensors alone" in message
    assert "weights_only" not in message
    assert "\n" not in message
    assert not marker.exists()
    if save is save_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists(), "the file holds no code, so that nothing was tested"
