"""Small torch networks that look at no later position or at one frame at a time, and such that look at all."""

import torch
import torch.nn.functional as F
from torch import nn


class Chomp1d(nn.Module):
    """Cuts off what a padding on both sides added behind, as in Bai et al.'s TCN."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x[..., : -self.size]


class TemporalBlock(nn.Module):
    def __init__(self, i, o, dilation):
        super().__init__()
        self.conv = nn.Conv1d(i, o, 3, padding=2 * dilation, dilation=dilation)
        self.chomp = Chomp1d(2 * dilation)
        self.norm = nn.BatchNorm1d(o)
        self.skip = nn.Conv1d(i, o, 1)

    def forward(self, x):
        return torch.relu(self.norm(self.chomp(self.conv(x))) + self.skip(x))


def tcn():
    return nn.Sequential(TemporalBlock(3, 8, 1), TemporalBlock(8, 8, 2), nn.Conv1d(8, 5, 1))


class Gated(nn.Module):
    """A layer of WaveNet: a dilated convolution of what lies before, tanh times sigmoid, a residual and a skip."""

    def __init__(self, c, dilation):
        super().__init__()
        self.dilation = dilation
        self.filter, self.gate = (nn.Conv1d(c, c, 2, dilation=dilation) for _ in range(2))
        self.residual, self.skip = nn.Conv1d(c, c, 1), nn.Conv1d(c, 6, 1)

    def forward(self, x):
        before = F.pad(x, (self.dilation, 0))
        h = torch.tanh(self.filter(before)) * torch.sigmoid(self.gate(before))
        return x + self.residual(h), self.skip(h)


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 1)
        self.layers = nn.ModuleList(Gated(8, 2**i) for i in range(3))
        self.end = nn.Conv1d(6, 4, 1)

    def forward(self, x):
        x, skips = self.stem(x), 0
        for layer in self.layers:
            x, skip = layer(x)
            skips = skips + skip
        return self.end(torch.relu(skips))


class LeftPadded(nn.Module):
    """Nothing but the run tells: the forward joins zeros to the front."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 1)

    def forward(self, x):
        before = torch.cat([x.new_zeros(*x.shape[:2], 2), x], dim=2)
        return self.last(torch.relu(self.first(before)))


class FramesInBatch(nn.Module):
    """A ResNet of 2-D convolutions over each frame of (N, T, C, H, W), folded into the batch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        n, t = x.shape[:2]
        h = self.stem(x.flatten(0, 1))
        h = torch.relu(h + self.norm(self.conv(h)))
        return self.last(h.mean((2, 3))).unflatten(0, (n, t))


class FrameBlock(nn.Module):
    """Of a ResNet over (N, C, T, H, W) whose kernels are (1, 3, 3)."""

    def __init__(self, c):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(c, c, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(c)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def frames_3d():
    return nn.Sequential(nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)), FrameBlock(8), nn.Conv3d(8, 4, 1))


class Causal3d(nn.Module):
    """Kernels (2, 3, 3), padded in front alone in time."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv3d(3, 8, (2, 3, 3)), nn.BatchNorm3d(8)
        self.second = nn.Conv3d(8, 4, (3, 3, 3))

    def forward(self, x):
        h = torch.relu(self.norm(self.first(F.pad(x, (1, 1, 1, 1, 1, 0)))))
        return self.second(F.pad(h, (1, 1, 1, 1, 2, 0)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.low = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        high = torch.relu(self.norm(self.down(x)))
        low = F.interpolate(self.low(F.max_pool2d(high, 2)), scale_factor=2)
        return self.up(torch.cat([high, low], 1))


class Speech(nn.Module):
    """A convolution and a recurrent layer over (N, C, T)."""

    def __init__(self, size=1, bidirectional=True):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, size, padding=size // 2)
        self.rnn = nn.LSTM(8, 6, batch_first=True, bidirectional=bidirectional)

    def forward(self, x):
        return self.rnn(torch.relu(self.conv(x)).transpose(1, 2))[0]


def plain_1d():
    return nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 3, padding=1))


def pointwise():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def valid_image():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3))


def patches():
    """Works on patches of 2: outputs are as long as inputs, and earlier ones see later ones within a patch alone."""
    return nn.Sequential(nn.Conv1d(3, 8, 2, 2), nn.BatchNorm1d(8), nn.ConvTranspose1d(8, 3, 2, 2))


class LaterFrames(nn.Module):
    """Kernels (1, 3, 3), and a mixing of frames that starts as nothing, as inflated video networks have it."""

    def __init__(self):
        super().__init__()
        self.stem, self.end = nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(8, 3, 1)
        self.mix = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x):
        x = self.stem(x)
        return self.end(x + self.mix(x))


class WithHead(nn.Module):
    """A causal trunk, and a classifier beside it that looks at all; the inputs stand in a list, a flag behind it."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head, self.out = tcn(), nn.Conv1d(5, 8, 1), nn.Linear(8, 3)

    def forward(self, xs, doubled=False):
        y = self.trunk(xs[0] * (1 + doubled))
        return {"steps": y, "classes": self.out(torch.relu(self.head(y)).mean(-1))}


class Translator(nn.Module):
    """An encoder that looks at all of its tokens, and a decoder that looks at those before."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.encode, self.decode = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 1)
        self.attend = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, source, target):
        memory = self.encode(self.embed(source).mT).mT
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.attend(self.decode(self.embed(target).mT).mT, memory, tgt_mask=mask)


class Fixed(nn.Module):
    """Takes no other inputs than its first ones."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv1d(3, 8, 1), None

    def forward(self, x):
        self.seen = x.clone() if self.seen is None else self.seen
        if not torch.equal(x, self.seen):
            raise RuntimeError("the table has no such key")
        return self.conv(x)


class Masked2d(nn.Conv2d):
    """Sees the rows above and what lies to the left, as PixelCNN's convolutions."""

    def __init__(self, i, o, sees_itself):
        super().__init__(i, o, 3, padding=1)
        mask = torch.ones(3, 3)
        mask[1, 1 + sees_itself :] = 0
        mask[2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


def pixelcnn():
    return nn.Sequential(
        Masked2d(1, 8, False), nn.BatchNorm2d(8), nn.ReLU(), Masked2d(8, 8, True), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
