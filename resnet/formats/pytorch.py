"""Reads the files of `torch.save`, by PyTorch itself. Code inside a file is never executed."""

from pathlib import Path
from typing import Any

from resnet.errors import UserError
from resnet.formats.containers import Container, damaged, unwrapped

_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "ema", "model_ema")


def read_pytorch(path: Path) -> Container:
    """Reads the tensors of a file of `torch.save`.

    Raises:
        UserError: PyTorch is not installed, or the file is damaged or holds more than tensors.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: is a PyTorch file, which only PyTorch reads; expected it to be installed: install it,"
            ' or convert the file where it is: python -c "import sys, torch, safetensors.torch as s;'
            " w = torch.load(sys.argv[1], map_location='cpu', weights_only=True);"
            " s.save_file(w, 'weights.safetensors')\""
            f" {path.name}"
        ) from None
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds code beside weights, or is damaged; expected tensors alone, and no code was run:"
            " save model.state_dict() instead of the model"
        ) from None
    except Exception as error:
        raise damaged(path, error) from None
    arrays = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in _state_dict(loaded).items()
        if isinstance(tensor, torch.Tensor)
    }
    return Container(unwrapped(arrays))


def _state_dict(loaded: Any) -> dict[str, Any]:
    """Returns the state dict of a file: its whole content, or an entry of it such as `model`."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            return _state_dict(loaded[wrapper])
    return loaded if isinstance(loaded, dict) else {}
