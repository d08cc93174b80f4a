"""What shows that a linen network looks at no later position, or at one frame at a time."""

from collections.abc import Sequence

from flax import linen as nn

from eca_multi.flax._jaxpr import proof
from eca_multi.surgery.causality import Evidence
from eca_multi.surgery.entry import ECAEntry

from .finder import Finder


def evidence(finder: Finder, entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Return the evidence about the sites of these ECAs, from the network's run on the example inputs."""
    shapes = {path: record.shapes[0] or () for path, record in finder.called.items()}
    batch_norms = [path for path, record in finder.called.items() if isinstance(record.module, nn.BatchNorm)]
    return proof.evidence(finder.flow, entries, shapes, settled=batch_norms)
