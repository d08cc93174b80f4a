"""Numbers, names and counts as every rendering of a report prints them."""

import math

NONE, TIMES = "\u2013", "\u00d7"  # an en dash and the sign of multiplication
_DTYPES = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def use(value: float | None) -> str:
    """Return a budget use in at most five characters. Rounding never carries it over the limit, which is 1."""
    if value is None:
        return "∞"
    if value == 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    if value < 9.995:
        rounded = f"{value:.2f}"
        return rounded if value == 1 or rounded != "1.00" else "0.99" if value < 1 else "1.01"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}" if value < 9999.5 else _exponential(value, 0)


def reach_words(value: float) -> str:
    """Say how far below the reference a budget lies."""
    if value <= 0 or not math.isfinite(1 / value):
        return "the budget is unbounded"
    if value < 1:
        return f"the budget is {plain(1 / value)} {TIMES} the reference"
    return f"the budget is 1/{plain(value)} of the reference"


def plain(value: float | None) -> str:
    """Return three significant digits."""
    if value is None:
        return NONE
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return _exponential(value, 2)


def power(base: int, exponent: int) -> str:
    """Return a power with its exponent in raised digits; the powers 0 and 1 as numbers."""
    return str(base**exponent) if exponent in (0, 1) else f"{base}{str(exponent).translate(_RAISED)}"


def short_dtype(dtype: str) -> str:
    return _DTYPES.get(dtype, dtype[:5])


def words(name: str) -> str:
    return name.replace("_", " ").lower()


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def value_text(value: object) -> str:
    """Return a value of any kind, as a probe returns it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain(value) if math.isfinite(value) else str(value)
    return "none" if value is None else str(value)


def _exponential(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
