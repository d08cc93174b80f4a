"""ECA-ResNet and ECA-MobileNetV2 as data, from which every framework builds; this folder imports no framework."""

from .builders import Builders as Builders
from .catalogue import NETWORKS as NETWORKS
from .catalogue import MobileNetV2 as MobileNetV2
from .catalogue import Network as Network
from .catalogue import ResNet as ResNet
from .catalogue import find as find
from .counts import macs as macs
from .counts import operations as operations
from .counts import published_operations as published_operations
from .options import check_input as check_input
from .options import check_options as check_options
from .options import drop_rates as drop_rates
from .parts import Block as Block
from .parts import Conv as Conv
from .preprocessing import RELEASED as RELEASED
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import preprocessing_of as preprocessing_of
from .sizes import kernel_sizes as kernel_sizes
from .tensors import PARAMETERS as PARAMETERS
from .tensors import STATISTICS as STATISTICS
from .tensors import Tensor as Tensor
from .tensors import count_parameters as count_parameters
from .tensors import stem_of as stem_of
from .tensors import tensors as tensors
