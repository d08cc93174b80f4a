"""What stands in a linen network with ECA: a subclass with the sites (`module`), gated while it runs (`gating`)."""

from .gating import KERNEL as KERNEL
from .gating import NAME as NAME
from .gating import Site as Site
from .module import base_class as base_class
from .module import is_eca as is_eca
from .module import no_kernels as no_kernels
from .module import sites_of as sites_of
from .module import with_sites as with_sites
