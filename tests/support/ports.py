"""A small network in torch and its port to nnx, with faults that a porter makes; and the same as functions."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

INPUTS = np.random.default_rng(0).normal(size=(2, 3, 8, 9)).astype(np.float32)
MAP = {
    "stem.kernel": "conv1.weight: o i h w -> h w i o",
    "stem.bias": "conv1.bias",
    "norm.scale": "bn1.weight",
    "norm.bias": "bn1.bias",
    "norm.mean": "bn1.running_mean",
    "norm.var": "bn1.running_var",
    "conv.kernel": "conv2.weight: o i h w -> h w i o",
    "conv.bias": "conv2.bias",
    "head.kernel": "fc.weight: o i -> i o",
    "head.bias": "fc.bias",
}


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.relu, self.conv2 = torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.fc = torch.nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = x + self.relu(self.conv2(x))
        return {"logits": self.fc(x.mean((2, 3))), "features": x}


class NnxNet(nnx.Module):
    """Faults: "eps", "relu" (left out), "detached" (no gradient through the second convolution)."""

    def __init__(self, fault=""):
        rngs = nnx.Rngs(0)
        self.fault = fault
        self.stem, self.conv = (nnx.Conv(inside, 8, (3, 3), rngs=rngs) for inside in (3, 8))
        self.norm = nnx.BatchNorm(8, epsilon=1e-3 if fault == "eps" else 1e-5, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.stem(x))
        x = x if self.fault == "relu" else nnx.relu(x)
        inner = self.conv(x)
        x = x + nnx.relu(jax.lax.stop_gradient(inner) if self.fault == "detached" else inner)
        return {"logits": self.head(x.mean((1, 2))), "features": x}


def reference() -> TorchNet:
    torch.manual_seed(0)
    net = TorchNet().eval()
    with torch.no_grad():
        net.bn1.running_mean.normal_()
        net.bn1.running_var.uniform_(0.05, 0.2)
    return net


def port(fault: str = "", flip: bool = False) -> NnxNet:
    """Return the port with the reference's weights; `flip` reverses the second kernel."""
    net = NnxNet(fault)
    held = {name: jnp.asarray(tensor.numpy()) for name, tensor in reference().state_dict().items()}
    for name, text in MAP.items():
        layer, _, key = name.partition(".")
        source, _, way = text.partition(":")
        array = held[source]
        array = array if not way else array.transpose(2, 3, 1, 0) if "h w" in way else array.T
        array = array[::-1, ::-1] if flip and name == "conv.kernel" else array
        getattr(getattr(net, layer), key)[...] = array
    return net
