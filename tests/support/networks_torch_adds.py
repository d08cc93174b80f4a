"""Small torch blocks of each way to add: what surgery takes as a residual branch, and what it must not take."""

import torch
import torch.nn.functional as F
from torch import nn

from .networks_torch import conv


class Body(nn.Sequential):
    """Two layers with a norm each."""

    def __init__(self, i, o, stride=1):
        super().__init__(conv(i, o, 3, stride), nn.BatchNorm2d(o), nn.ReLU(), conv(o, o), nn.BatchNorm2d(o))


class SliceThenJoin(nn.Module):
    """The shortcut goes to some of the channels (ReXNet)."""

    def __init__(self, c):
        super().__init__()
        self.body, self.c = Body(c, 2 * c), c

    def forward(self, x):
        y = self.body(x)
        return torch.cat([y[:, : self.c] + x, y[:, self.c :]], 1)


class SliceInPlace(SliceThenJoin):
    def forward(self, x):
        y = self.body(x)
        y[:, : self.c] += x
        return y


class DualPath(nn.Module):
    """A shortcut and a branch of which each is a slice (DPN)."""

    def __init__(self, c):
        super().__init__()
        self.project, self.body, self.c = conv(c, 2 * c, 1), Body(c, 2 * c), c

    def forward(self, x):
        shortcut, y = self.project(x), self.body(x)
        first, rest = shortcut[:, : self.c], shortcut[:, self.c :]
        return torch.cat([first + y[:, : self.c], rest, y[:, self.c :]], 1)


class PreConv(nn.Module):
    """Returns the activated input too."""

    def __init__(self, i, o):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(i), conv(i, o)

    def forward(self, x):
        x = F.relu(self.bn(x))
        return self.conv(x), x


class PreBody(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.first, self.second = PreConv(i, o), PreConv(o, o)

    def forward(self, x):
        x, activated = self.first(x)
        x, _ = self.second(x)
        return x, activated


class PreActivationUnit(nn.Module):
    """Branch and shortcut leave one module as a tuple (wide ResNet, residual attention)."""

    def __init__(self, i, o):
        super().__init__()
        self.body, self.identity = PreBody(i, o), conv(i, o, 1) if i != o else None

    def forward(self, x):
        shortcut = x
        x, activated = self.body(x)
        if self.identity is not None:
            shortcut = self.identity(activated)
        return x + shortcut


class TupleOfOne(nn.Module):
    """Returns its one tensor in a tuple."""

    def __init__(self, c):
        super().__init__()
        self.body = Body(c, c)

    def forward(self, x):
        return (self.body(x),)


class TakesTupleOfOne(nn.Module):
    """Symbolic tracing cannot follow the comparison."""

    def __init__(self, c):
        super().__init__()
        self.branch = TupleOfOne(c)

    def forward(self, x):
        return x + self.branch(x)[0] if x.isfinite().all() else x


class Padded(nn.Module):
    """The shortcut gets channels of zeros (PyramidNet)."""

    def __init__(self, i, o, stride=1):
        super().__init__()
        self.body, self.pad, self.pool = Body(i, o, stride), o - i, nn.AvgPool2d(2) if stride > 1 else None

    def forward(self, x):
        shortcut = x if self.pool is None else self.pool(x)
        return self.body(x) + F.pad(shortcut, (0, 0, 0, 0, 0, self.pad))


class OptionA(Padded):
    """The shortcut of the first ResNets: every other position, and channels of zeros by concatenation."""

    def forward(self, x):
        shortcut = x[:, :, ::2, ::2]
        return self.body(x) + torch.cat([shortcut, torch.zeros_like(shortcut)], 1)


class Repeated(nn.Module):
    """The shortcut is the input, repeated (VNet)."""

    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn, self.times = conv(i, o), nn.BatchNorm2d(o), o // i

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)) + x.repeat(1, self.times, 1, 1)[:, : self.bn.num_features])


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


class ByModule(nn.Module):
    """The add is a module of its own."""

    def __init__(self, c):
        super().__init__()
        self.body, self.sum = Body(c, c), Sum()

    def forward(self, x):
        return self.sum(self.body(x), x)


class InlineSqueeze(nn.Module):
    """A gate stands in the forward itself, between the branch's module and the add."""

    def __init__(self, c):
        super().__init__()
        self.body, self.fc = Body(c, c), nn.Conv2d(c, c, 1)

    def forward(self, x):
        y = self.body(x)
        return x + y * torch.sigmoid(self.fc(y.mean((2, 3), keepdim=True)))


class Given(nn.Module):
    """The shortcut is handed in (DLA)."""

    def __init__(self, c):
        super().__init__()
        self.body = Body(c, c)

    def forward(self, x, shortcut):
        return self.body(x) + shortcut


class GivenInBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block = Given(c)

    def forward(self, x):
        return self.block(x, F.relu(x))


class ChannelsLast(nn.Module):
    """A convolution between linear layers that see the channels last."""

    def __init__(self, c):
        super().__init__()
        self.inner, self.outer, self.depthwise = nn.Linear(c, c), nn.Linear(c, c), conv(c, c, groups=c)

    def forward(self, x):
        return self.outer(self.depthwise(self.inner(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class MapAmongTokens(nn.Module):
    """Tokens made a map for the branch, by sizes that are handed in (FocalNet)."""

    def __init__(self, c):
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(c), ChannelsLast(c)

    def forward(self, x, size):
        height, width = size
        n, _, c = x.shape
        y = self.modulation(self.norm(x).view(n, height, width, c))
        return x + 0.5 * y.view(n, height * width, c)


class Windows(MapAmongTokens):
    """The branch sees windows of two by two tokens, each as a map of its own."""

    def forward(self, x, size):
        height, width = size
        n, _, c = x.shape
        y = self.norm(x).view(n, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 2, 2, c)
        y = self.modulation(y).view(n, height // 2, width // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        return x + y.reshape(n, height * width, c)


class Tokens(nn.Module):
    """Hands a map to a block of tokens."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        n, c, height, width = x.shape
        return self.block(x.flatten(2).transpose(1, 2), (height, width)).transpose(1, 2).reshape(n, c, height, width)


class RepVGG(nn.Module):
    """Two convolutions and a norm side by side."""

    def __init__(self, c):
        super().__init__()
        self.dense, self.one, self.identity = conv(c, c), conv(c, c, 1), nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(self.dense(x) + self.one(x) + self.identity(x))


class MobileOne(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.identity, self.scale = nn.BatchNorm2d(c), conv(c, c, 1)
        self.branches = nn.ModuleList([conv(c, c), conv(c, c)])

    def forward(self, x):
        y = self.scale(x) + self.identity(x)
        for branch in self.branches:
            y += branch(x)
        return F.relu(y)


class ShakeShake(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.left, self.right = Body(c, c), Body(c, c)

    def forward(self, x):
        return F.relu(x + 0.5 * (self.left(x) + self.right(x)))


class LinkNet(nn.Module):
    """An encoder and a decoder, with an add of both."""

    def __init__(self, c):
        super().__init__()
        self.down, self.up = Body(c, c, 2), nn.ConvTranspose2d(c, c, 2, 2)

    def forward(self, x):
        return x + self.up(self.down(x))


class Pyramid(nn.Module):
    """A feature pyramid: the deep map, larger, and the flat one through a convolution."""

    def __init__(self, c):
        super().__init__()
        self.deep, self.lateral, self.top = Body(c, c, 2), conv(c, c, 1), conv(c, c, 1)

    def forward(self, x):
        top = self.top(self.deep(x))
        return self.lateral(x) + F.interpolate(top, scale_factor=2.0)


class TopDown(nn.Module):
    """A deep map, larger, and a flat one, both handed in: no convolution in this forward (UPerNet)."""

    def forward(self, flat, deep):
        return flat + F.interpolate(deep, scale_factor=2.0)


class FeaturePyramid(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.deep, self.lateral, self.merge = Body(c, c, 2), conv(c, c, 1), TopDown()

    def forward(self, x):
        return F.relu(self.merge(self.lateral(x), self.deep(x)))


class TwoScales(nn.Module):
    """A branch that keeps its size beside one that is made smaller and larger again, joined (SINet)."""

    def __init__(self, c):
        super().__init__()
        self.flat, self.deep, self.last = Body(c, c // 2), Body(c, c // 2, 2), conv(c, c, 1)

    def forward(self, x):
        return x + self.last(torch.cat([self.flat(x), F.interpolate(self.deep(x), scale_factor=2.0)], 1))


class Fusion(nn.Module):
    """Branches of several resolutions are exchanged (HRNet)."""

    def __init__(self, c):
        super().__init__()
        self.branches = nn.ModuleList([Body(c, c), Body(c, c)])
        self.down = conv(c, c, 3, 2)

    def forward(self, maps):
        high, low = (branch(x) for branch, x in zip(self.branches, maps, strict=True))
        return low + self.down(high)


class HighResolution(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.low, self.fusion = conv(c, c, 3, 2), Fusion(c)

    def forward(self, x):
        return self.fusion([x, self.low(x)])


class GatedCopy(nn.Module):
    """x + x * mask: attention."""

    def __init__(self, c):
        super().__init__()
        self.trunk, self.mask = Body(c, c), nn.Sequential(conv(c, c, 1), nn.Sigmoid())

    def forward(self, x):
        y = self.trunk(x)
        return y + y * self.mask(x)


class GatedTwice(GatedCopy):
    """x * mask + x * another: attention over channels beside attention over positions."""

    def __init__(self, c):
        super().__init__(c)
        self.other = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, c, 1), nn.ReLU(), conv(c, c, 1), nn.Sigmoid())

    def forward(self, x):
        y = self.trunk(x)
        return y * self.mask(y) + y * self.other(y)


class PooledBranch(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.pool = conv(c, c), nn.AvgPool2d(3, 1, 1)

    def forward(self, x):
        return x + self.pool(self.conv(x))


class Positions(nn.Module):
    """An add without a convolution."""

    def __init__(self, c):
        super().__init__()
        self.mix = nn.Linear(c, c)

    def forward(self, x):
        return x + self.mix(x.transpose(1, 3)).transpose(1, 3)


class Anchors(nn.Module):
    """Adds numbers that take their type or their size from the input, and none of its values (the boxes of YOLO)."""

    def __init__(self, c, offsets):
        super().__init__()
        self.body, self.offsets = Body(c, c), offsets

    def forward(self, x):
        return self.body(x) + self.offsets(x)


class LayerScale(nn.Module):
    """Says no channels; its parameter does."""

    def __init__(self, c):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((c, 1, 1), 0.5))

    def forward(self, x):
        return x * self.gamma


class ScaledShortcut(nn.Module):
    """The shortcut has a learned scale for each channel (MetaFormer)."""

    def __init__(self, c):
        super().__init__()
        self.body, self.scale = Body(c, c), LayerScale(c)

    def forward(self, x):
        return self.scale(x) + self.body(x)


class Ghost(nn.Module):
    """Joins two maps: says no channels either."""

    def __init__(self, c):
        super().__init__()
        self.primary, self.cheap = conv(c, c // 2, 1), conv(c // 2, c // 2)

    def forward(self, x):
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


class SpatialGate(nn.Module):
    """Returns its input times a map of one channel: says no channels either (CBAM)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        return x * torch.sigmoid(self.conv(torch.cat([x.amax(1, True), x.mean(1, True)], 1)))


class Closed(nn.Module):
    """A residual block that ends in a given layer."""

    def __init__(self, c, last):
        super().__init__()
        self.body, self.last = Body(c, c), last

    def forward(self, x):
        return x + self.last(self.body(x))


class Encoder(nn.Module):
    """Its last stage is never called (PSPNet); the stages are called through a list that the forward makes."""

    def __init__(self, c):
        super().__init__()
        self.stage1, self.stage2 = Closed(c, nn.ReLU()), Closed(c, nn.ReLU())

    def forward(self, x):
        for stage in nn.Sequential(nn.ReLU(), self.stage1):
            x = stage(x)
        return x
