"""ECA-ResNet and ECA-MobileNetV2 as data, from which every framework builds; this folder imports no framework."""

from .catalogue import NETWORKS as NETWORKS
from .catalogue import Network as Network
from .catalogue import find as find
from .counts import macs as macs
from .counts import operations as operations
from .counts import published_operations as published_operations
from .kernels import kernel_sizes as kernel_sizes
from .mobilenet import MobileNetV2 as MobileNetV2
from .parts import Block as Block
from .parts import Conv as Conv
from .preprocessing import RELEASED as RELEASED
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import preprocessing_of as preprocessing_of
from .resnet import ResNet as ResNet
from .tensors import PARAMETERS as PARAMETERS
from .tensors import STATISTICS as STATISTICS
from .tensors import Tensor as Tensor
from .tensors import count_parameters as count_parameters
from .tensors import tensors as tensors
