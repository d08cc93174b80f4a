"""ECA-ResNet and ECA-MobileNetV2 as data: no framework is imported here, and every framework builds from this."""

from .builders import Builders as Builders
from .catalogue import NETWORKS as NETWORKS
from .catalogue import find as find
from .counts import macs as macs
from .counts import operations as operations
from .counts import published_operations as published_operations
from .options import check_input as check_input
from .options import check_options as check_options
from .options import drop_rates as drop_rates
from .preprocessing import RELEASED as RELEASED
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import preprocessing_of as preprocessing_of
from .sizes import KernelSizes as KernelSizes
from .sizes import kernel_sizes as kernel_sizes
from .tables import Block as Block
from .tables import Conv as Conv
from .tables import Feature as Feature
from .tables import MobileNetV2 as MobileNetV2
from .tables import Network as Network
from .tables import ResNet as ResNet
from .tensors import PARAMETERS as PARAMETERS
from .tensors import STATISTICS as STATISTICS
from .tensors import Tensor as Tensor
from .tensors import count_parameters as count_parameters
from .tensors import tensors as tensors
