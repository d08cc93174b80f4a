"""All hypotheses, in the order in which they are tried and named."""

from .activations import ACTIVATIONS
from .attention import ATTENTION
from .composition import COMPOSITION
from .counting import COUNTING
from .hypothesis import Hypothesis
from .layout import LAYOUT
from .norms import NORMS
from .order_of_norm import ORDER_OF_NORM
from .padding import PADDING
from .parts import PARTS
from .positions import POSITIONS
from .precision import PRECISION
from .recurrent import RECURRENT
from .resampling import RESAMPLING
from .weights import WEIGHTS

HYPOTHESES: tuple[Hypothesis, ...] = (
    *WEIGHTS,
    *PARTS,
    *PADDING,
    *NORMS,
    *ACTIVATIONS,
    *COUNTING,
    *ATTENTION,
    *RESAMPLING,
    *RECURRENT,
    *LAYOUT,
    *COMPOSITION,
    *ORDER_OF_NORM,
    *POSITIONS,
    *PRECISION,
)
