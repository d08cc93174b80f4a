"""Small networks of each pattern that surgery meets: what is in them matters, not what they compute."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(i, o, k=3, stride=1, groups=1):
    return nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False)


class Basic(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, 3, stride), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)) if stride > 1 else None

    def forward(self, x):
        shortcut = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            shortcut = self.downsample(x)
        out += shortcut
        return self.relu(out)


class Net(nn.Module):
    def __init__(self, *blocks, i=3, o=16, stem=8):
        super().__init__()
        self.stem = conv(i, stem)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(o, 5)

    def features(self, x):
        return self.blocks(self.stem(x))

    def forward(self, x):
        return self.fc(self.features(x).flatten(2).mean(2))


def resnet():
    return Net(Basic(8, 8), Basic(8, 8), Basic(8, 16, 2), Basic(16, 16))


class Bottleneck(nn.Module):
    """With a function add and a dropout before it."""

    def __init__(self, c):
        super().__init__()
        self.body = nn.Sequential(conv(c, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), conv(4, c, 1), nn.BatchNorm2d(c))
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x):
        return torch.relu(torch.add(self.drop(self.body(x)), x))


class InvertedResidual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        first = nn.Sequential(conv(i, 2 * i, 1), nn.BatchNorm2d(2 * i), nn.ReLU6())
        second = nn.Sequential(conv(2 * i, 2 * i, groups=2 * i), nn.BatchNorm2d(2 * i), nn.ReLU6())
        self.conv = nn.Sequential(first, second, conv(2 * i, o, 1), nn.BatchNorm2d(o))
        self.skip = i == o

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class Squeeze(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class MBConv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.expand, self.bn1 = conv(c, 2 * c, 1), nn.BatchNorm2d(2 * c)
        self.se = Squeeze(2 * c)
        self.project, self.bn2 = conv(2 * c, c, 1), nn.BatchNorm2d(c)
        self.shortcut = nn.Identity()

    def forward(self, x):
        out = self.bn2(self.project(self.se(F.silu(self.bn1(self.expand(x))))))
        return out + self.shortcut(x)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dw = conv(c, c, 7, groups=c)
        self.norm = nn.LayerNorm(c)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c), nn.Dropout(0.0))
        self.gamma = nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x):
        out = self.mlp(self.norm(self.dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x + out * self.gamma.reshape(1, -1, 1, 1)


class PreActivation(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c), conv(c, c)
        self.bn2, self.conv2 = nn.BatchNorm2d(c), conv(c, c)

    def forward(self, x):
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))) + x


class Res2(nn.Module):
    """Partial sums of slices within the branch."""

    def __init__(self, c):
        super().__init__()
        self.inner, self.out, self.bn = conv(c // 2, c // 2), conv(c, c, 1), nn.BatchNorm2d(c)

    def forward(self, x):
        first, second = torch.split(x, x.shape[1] // 2, 1)
        first = self.inner(first)
        second = self.inner(second + first)
        out = self.bn(self.out(torch.cat([first, second], 1)))
        out += x
        return out


class Dense(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c), conv(c, c)

    def forward(self, x):
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)[:, : x.shape[1]]


class Untraceable(nn.Module):
    """Its way depends on the values: torch.fx cannot follow."""

    def __init__(self, c):
        super().__init__()
        self.conv, self.bn = conv(c, c), nn.BatchNorm2d(c)

    def forward(self, x):
        out = self.bn(self.conv(x))
        if x.abs().max() > 1e9:
            return x
        return x + out


class Hidden(nn.Module):
    """Keeps a module in a plain list too: a call through it is not seen from the tree of modules."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.others = [self.conv]

    def forward(self, x):
        return self.others[0](self.conv(x))


class Shared(nn.Module):
    """One norm under two names."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8), conv(8, 8)
        self.norm = nn.BatchNorm2d(8)
        self.again = self.norm

    def forward(self, x):
        return self.again(self.conv2(self.norm(self.conv1(x))))


def spatial(dims):
    """A residual network in one or three dimensions."""
    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dims]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = convolution(8, 8, 3, padding=1), norm(8)

        def forward(self, x):
            return F.relu(x + self.norm(self.conv(x)))

    return nn.Sequential(convolution(2, 8, 3), Block(), Block())


def classifier():
    """The network of the founding question: two Conv1d layers, here for sequences of any length."""
    pool = nn.AdaptiveAvgPool1d(1)
    first, second = nn.Conv1d(8, 64, 3, padding=1), nn.Conv1d(64, 128, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), pool, nn.Flatten(), nn.Linear(128, 10))


MINIATURES = {
    "basic": (resnet, ["blocks.0.bn2", "blocks.1.bn2", "blocks.2.bn2", "blocks.3.bn2"]),
    "bottleneck": (lambda: Net(Bottleneck(8), Bottleneck(8), o=8), ["blocks.0.body.4", "blocks.1.body.4"]),
    "inverted residual": (lambda: Net(InvertedResidual(8, 16), InvertedResidual(16, 16)), ["blocks.1.conv.3"]),
    "MBConv": (lambda: Net(MBConv(8), MBConv(8), o=8), ["blocks.0.bn2", "blocks.1.bn2"]),
    "ConvNeXt": (lambda: Net(ConvNeXtBlock(8), ConvNeXtBlock(8), o=8), ["blocks.0.mlp.2", "blocks.1.mlp.2"]),
    "pre-activation": (lambda: Net(PreActivation(8), o=8), ["blocks.0.conv2"]),
    "Res2Net": (lambda: Net(Res2(8), o=8), ["blocks.0.bn"]),
}


def randomised(net, seed=0):
    """Scales and statistics as after training; where norms start at zero, every placement would look right."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()
