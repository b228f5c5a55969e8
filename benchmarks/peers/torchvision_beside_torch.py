"""torchvision, beside a build of PyTorch that its operators were not compiled for.

Its operators are compiled for one build of PyTorch. Beside another, such as the CPU's, its Python code runs
once the two operators that it expects at import are declared.
"""

import torch

try:
    import torchvision
except RuntimeError:
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
