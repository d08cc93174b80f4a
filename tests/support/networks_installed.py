"""Networks of torchvision and timm, if these are installed.

torchvision's compiled operators do not load beside another build of torch, and importing it fails then: "operator
torchvision::nms does not exist". What it registers for these operators is left out; no network that classifies images
uses them.
"""

import sys
from types import ModuleType

import pytest
import torch

WHY_NOT = "timm and torchvision are not installed here: `pip install --no-deps timm torchvision`"


def libraries():
    """Return {"torchvision": ..., "timm": ...}, or skip the test."""
    try:
        import torchvision
    except ModuleNotFoundError:
        pytest.skip(WHY_NOT)
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("_meta_registrations", "_autograd_registrations"):
            sys.modules[f"torchvision.{name}"] = ModuleType(name)
        import torchvision
    timm = pytest.importorskip("timm", reason=WHY_NOT)
    return {"torchvision": torchvision, "timm": timm}


def built(name, **options):
    """Return a network by "library/name", with norms, layer scales and other vectors as after training."""
    library, name = name.split("/")
    module = libraries()[library]
    torch.manual_seed(0)
    if library == "timm":
        net = module.create_model(name, **options)
    else:
        net = module.models.get_model(name, weights=None, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.uniform_(0.5, 1.5)  # zeros, as some start with, would keep outputs whatever is inserted
        for inner in net.modules():
            if isinstance(inner, torch.nn.modules.batchnorm._BatchNorm):
                inner.running_mean.normal_()
                inner.running_var.uniform_(0.5, 2)
    return net.eval()
