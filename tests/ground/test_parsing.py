"""The border at which whatever a parser raises becomes one documented error."""

import struct

import pytest

from eca_multi._parsing import parse_json, parsing
from eca_multi.checkpoints import CheckpointError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IndexError("index out of range"), "index out of range"),
        (NotImplementedError("zip file version 9.9"), "zip file version 9.9"),
        (RecursionError(), "nested too deeply"),
        (MemoryError(), "it asks for more memory than there is"),
        (OverflowError("too large"), "too large"),
        (AssertionError(), "AssertionError"),
        (OSError("unable to open"), "unable to open"),
        (struct.error("unpack requires 8 bytes\nand more"), "unpack requires 8 bytes$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_parser_raises_becomes_one_error(error, text):
    with pytest.raises(CheckpointError, match=text) as info, parsing(CheckpointError):
        raise error
    assert info.value.__cause__ is error


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), OSError(5, "Input/output error")])
def test_errors_of_the_system_pass(error):
    with pytest.raises(OSError, match=r"No such file|Input/output") as info, parsing(CheckpointError):
        raise error
    assert info.value is error


def test_an_error_that_says_all_passes():
    with pytest.raises(KeyError, match="mine"), parsing(CheckpointError, KeyError):
        raise KeyError("mine")
    with pytest.raises(KeyboardInterrupt, match="stop"), parsing(CheckpointError):
        raise KeyboardInterrupt("stop")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("1e999", "1e999 is no finite number"),
        ("[NaN]", "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        ("9" * 400, "a whole number of 400 digits"),
        (b"\xff", "decode byte"),
        ("{", "Expecting"),
    ],
)
def test_what_is_no_json(text, match):
    with pytest.raises(ValueError, match=match):
        parse_json(text)
