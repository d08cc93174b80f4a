"""The planted causes, and the words by which a report names each."""

import re

# Cause -> a pattern that one of the causes in the report's line must match.
CAUSES = {
    "transposed kernel": r"transposed|(height and width|axes) exchanged",
    "flipped kernel": r"flipped|reversed",
    "missing bias": r"bias is missing",
    "shifted padding": r"padding is shifted",
    "SAME padding": r"padding is (SAME|shifted)",
    "zero padding": r"padding is (zero|filled|0)",
    "dilation": r"dilation",
    "order of groups": r"groups.* interleaved",
    "number of groups": r"number of groups|groups (is|are) \d",
    "eps": r"\beps\b",
    "momentum": r"momentum",
    "n - 1": r"n - 1",
    "training mode": r"batch statistics|training",
    "wrong axis": r"\baxis\b|\baxes\b|all axes",
    "swapped weights": r"scale and bias .*exchanged",
    "mean subtracted": r"subtracts? the mean",
    "1 + scale": r"1 \+",
    "tanh GELU": r"tanh",
    "sigmoid GELU": r"1\.702",
    "hard swish": r"hard",
    "detached gate": r"detach|no gradient|without a gradient",
    "slope": r"slope",
    "swapped halves": r"halves.* exchanged",
    "interleaved halves": r"interleaved",
    "dropout": r"dropout",
    "count_include_pad": r"count_include_pad",
    "align_corners": r"align_corners",
    "antialias": r"antialias",
    "interpolation": r"resize is",
    "half-pixel centres": r"resize is|half",
    "order of channels": r"\(r r C\)|order of the channels|interleaved|halves",
    "layout": r"channels last|reinterpreted",
    "shifted tokens": r"shifted|offset",
    "shifted positions": r"shifted|offset|position",
    "base": r"\bbase\b",
    "sign": r"\bsign\b|inverse|negated",
    "missing scale": r"scale|factor",
    "mask inverted": r"mask is inverted",
    "mask added": r"mask is added",
    "mask missing": r"mask is (ignored|missing)",
    "shifted mask": r"mask.* shifted",
    "order of heads": r"heads are (split|merged)",
    "residual": r"residual",
    "order of gates": r"gates?\b",
    "reset gate": r"reset",
    "forget bias": r"forget gate",
    "activation": r"activation",
    "order of directions": r"directions are exchanged",
    "not reversed back": r"reverse order",
    "pooling": r"maximum",
    "direction": r"runs backwards",
    "recurrent bias": r"bias",
    "order of packing": r"packed|exchanged",
    "order of norm": r"norm (comes|is) (first|last|before|after)",
}


# Cause -> the fault's name in a report's list of what a dtype and case cannot see.
IN_SIGHT = {
    "eps": "eps",
    "missing scale": "1/sqrt(d)",
    "tanh GELU": "tanh GELU",
    "momentum": "momentum",
    "order of gates": "gate order",
    "reset gate": "reset gate",
    "missing bias": "bias",
    "n - 1": "n - 1",
    "order of packing": "part order",
}


def names(line: str, cause: str) -> bool:
    """Return whether a line of a report names a planted cause."""
    return bool(re.search(CAUSES[cause], line, re.IGNORECASE))
