"""The kernel-size rule: one pure-Python decision for all frameworks.

A logarithm in floating point is off near powers of two (float32 logarithms give 7 instead of 9 at C = 32768 in three
frameworks), and a tie is exactly a power of two. So this module takes no logarithm in binary floating point.
"""

from decimal import Decimal, localcontext
from fractions import Fraction

from ._errors import check_beta, check_gamma, check_odd, check_positive_int


def eca_kernel_size(
    channels: int,
    *,
    gamma: float | Fraction | Decimal = 2,
    beta: float | Fraction | Decimal = 1,
    min_size: int = 1,
) -> int:
    """Return the odd kernel size that ECA uses for a number of channels.

    With x = (log2(channels) + beta) / gamma, the size is the odd number nearest to x, the larger one on a tie:
    2 * floor(x / 2) + 1. That is what the paper's formula and the usual code give.

    Args:
        channels: Number of channels C, at least 1. Any size; exact.
        gamma: Divisor of the rule, greater than 0. A float stands for the decimal number that it prints as, so
            that `gamma=0.1` is one tenth and ties are decided as written.
        beta: Offset of the rule (the paper's b), at least 0. Read like `gamma`.
        min_size: Smallest size to return, odd. 1 is the paper's rule; 3 is what timm and
            keras_cv_attention_models do.

    Returns:
        An odd integer >= min_size.

    Raises:
        TypeError: If an argument is not a number of the kind named above (bool is not an integer here).
        ValueError: If an argument is out of range, not finite, or `min_size` is even.

    Example:
        >>> from eca_multi import eca_kernel_size
        >>> [eca_kernel_size(c) for c in (4, 64, 128, 512, 2048)]
        [1, 3, 5, 5, 7]
        >>> eca_kernel_size(4, min_size=3)
        3

    Source: Wang et al., ECA-Net, CVPR 2020, equation 12 (gamma = 2, b = 1).
    """
    channels = check_positive_int("channels", channels)
    g, b = check_gamma(gamma), check_beta(beta)
    min_size = check_odd("min_size", min_size)
    return max(2 * _half(channels, g, b) + 1, min_size)


def _half(channels: int, gamma: Fraction, beta: Fraction) -> int:
    """Return floor((log2(channels) + beta) / (2 * gamma)), exactly."""
    exponent = channels.bit_length() - 1
    if gamma.denominator == beta.denominator == 1:
        # floor((y + b) / n) = (floor(y) + b) // n for integers b and n.
        return (exponent + beta.numerator) // (2 * gamma.numerator)
    if channels == 1 << exponent:
        return (exponent + beta) // (2 * gamma)
    # log2 of any other integer is irrational: the quotient is never an integer, so enough digits always decide.
    digits = 40
    while True:
        with localcontext() as context:
            context.prec = digits
            log2 = Decimal(channels).ln() / Decimal(2).ln()
            quotient = (log2 + _decimal(beta)) / (2 * _decimal(gamma))
            nearest = quotient.to_integral_value()
            if abs(quotient - nearest) > Decimal(10) ** (quotient.adjusted() + 8 - digits):
                return int(quotient.to_integral_value(rounding="ROUND_FLOOR"))
        digits *= 2


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
