"""ECA-ResNet and ECA-MobileNetV2 as tables: the layers of a network and their places, for all frameworks.

A network is a stem of convolutions, blocks, perhaps a last convolution, global pooling and a classifier. Each
convolution is followed by batch normalisation. A block is a branch of convolutions with ECA at its end, added to its
shortcut where it has one. All paths are the module names of the original ECANet and torchvision, in deep stems timm's.
"""

from .mobilenet import MobileNetV2 as MobileNetV2
from .parts import Block as Block
from .parts import Conv as Conv
from .parts import Feature as Feature
from .resnet import ResNet as ResNet

Network = ResNet | MobileNetV2
