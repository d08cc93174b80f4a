"""Numbers and names as they are printed."""

import math

from .markup import Markup, element, join

NONE, TIMES, MINUS = "\u2013", "\u00d7", "\u2212"  # an en dash, and the signs of mathematics
_DTYPES = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def use(value: float | None) -> str:
    """A budget use in at most five characters. Rounding never carries it over the limit, which is 1."""
    if value is None:
        return "∞"
    if value == 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    if value < 9.995:
        rounded = f"{value:.2f}"
        return rounded if value == 1 or rounded != "1.00" else "0.99" if value < 1 else "1.01"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}" if value < 9999.5 else _exponent(value, 0)


def plain(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return NONE
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return _exponent(value, 2)


def power_of_ten(exponent: int) -> Markup:
    """10 with its exponent, for the text of an SVG."""
    if exponent in (0, 1):
        return Markup("10" if exponent else "1")
    return superscript("10", exponent)


def power_of_two(exponent: int) -> Markup:
    return Markup("1") if exponent == 0 else superscript("2", exponent)


def superscript(base: str, exponent: int) -> Markup:
    raised = element("tspan", f"{exponent}".replace("-", MINUS), class_="sup", dy="-0.4em")
    return join(base, raised)


def short_dtype(dtype: str) -> str:
    return _DTYPES.get(dtype, dtype[:5])


def check_name(check: str) -> str:
    return check.replace("_", " ")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def index(position: object) -> str:
    return f"[{', '.join(map(str, position))}]" if isinstance(position, list | tuple) and position else ""


def value_text(value: object) -> str:
    """A value of any kind as a probe returns it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain(value) if math.isfinite(value) else str(value)
    return "none" if value is None else str(value)


def _exponent(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
