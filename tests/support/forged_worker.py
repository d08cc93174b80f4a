"""A worker of parity that lies, for tests/parity/test_messages.py: an interpreter that never loads this package.

It takes one list of requests, and answers with what the environment names. The adapter that it was given says which
requests are its own; of the real answers it knows the forms alone.
"""

import json
import os
import struct
import sys

Y = "|output/drawn/0/0/y"  # the key of an output y in the file of an answer
GREETING = {"versions": {"forged": "1"}, "budget": "stochastic", "cannot": {}}


def main() -> None:
    requests = json.loads(sys.stdin.readline())
    first = requests[0]
    answer = {"id": first["id"], "dtypes": {Y: "float32"}}
    forge = os.environ["PARITY_TEST_FORGE"]
    lines, path, before = {**FORGED, **CONTROL}[forge](first, answer)
    if before is not None:
        say(before)
    elif forge != "no greeting":
        say(GREETING)
    if path is not None:
        with open(first["out"], "wb") as file:
            file.write(path)
    for line in lines:
        say(line)
    sys.stdin.readline()


def say(line) -> None:
    data = line if isinstance(line, bytes) else json.dumps(line).encode()
    os.write(1, data + b"\n")


def arrays(tensors) -> bytes:
    """A safetensors file: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def linked(first, answer):
    os.symlink("/dev/zero", first["out"])
    return [answer], None, None


def piped(first, answer):
    os.mkfifo(first["out"])
    return [answer], None, None


def foldered(first, answer):
    os.mkdir(first["out"])
    return [answer], None, None


def flood(first, answer):
    """A line without an end, as long as anybody reads it: at most 1 GiB."""
    say(GREETING)
    try:
        for _ in range(1024):
            os.write(1, b"x" * (1 << 20))
    except OSError:
        sys.exit()
    return [], None, b""


ONE = ("F32", [1], struct.pack("<f", 1.0))
GOOD = arrays({Y: ("F32", [2, 7], struct.pack("<14f", *range(14)))})

# The lines that are said, what is written to the answer's file, and what is said in the place of the greeting.
FORGED = {
    "no object": lambda f, a: ([[]], None, None),
    "null": lambda f, a: ([b"null"], None, None),
    "a number": lambda f, a: ([b"3"], None, None),
    "no JSON": lambda f, a: ([b"nonsense"], None, None),
    "an empty line": lambda f, a: ([b""], None, None),
    "no UTF-8": lambda f, a: ([b'{"id": 0, "error": "\xff\xfe"}'], None, None),
    "nothing in it": lambda f, a: ([{}], None, None),
    "unknown kind": lambda f, a: ([{"id": f["id"], "colour": "red"}], None, None),
    "two kinds": lambda f, a: ([{**a, "error": "x"}], GOOD, None),
    "deep": lambda f, a: ([b"[" * 200_000], None, None),
    "deep inside": lambda f, a: ([b'{"id": ' + b"[" * 200_000 + b"]" * 200_000 + b', "error": "x"}'], None, None),
    "a huge number": lambda f, a: ([b'{"id": 1e400, "error": "x"}'], None, None),
    "a long number": lambda f, a: ([b'{"id": ' + b"9" * 10_000 + b', "error": "x"}'], None, None),
    "id NaN": lambda f, a: ([b'{"id": NaN, "error": "x"}'], None, None),
    "id true": lambda f, a: ([{"id": True, "error": "x"}], None, None),
    "id a list": lambda f, a: ([{"id": [f["id"]], "error": "x"}], None, None),
    "id a text": lambda f, a: ([{"id": str(f["id"]), "error": "x"}], None, None),
    "id of nobody": lambda f, a: ([{"id": 10**6, "error": "x"}], None, None),
    "id of another": lambda f, a: ([{"id": 1, "error": "x"}], None, None),
    "id negative": lambda f, a: ([{"id": -1, "error": "x"}], None, None),
    "no id": lambda f, a: ([{"error": "x"}], None, None),
    "id twice": lambda f, a: ([{"id": f["id"], "unsupported": "x"}, {"id": f["id"], "unsupported": "x"}], None, None),
    "error a list": lambda f, a: ([{"id": f["id"], "error": ["x"]}], None, None),
    "unsupported null": lambda f, a: ([{"id": f["id"], "unsupported": None}], None, None),
    "dtypes a list": lambda f, a: ([{**a, "dtypes": ["y"]}], GOOD, None),
    "dtypes of numbers": lambda f, a: ([{**a, "dtypes": {Y: 32}}], GOOD, None),
    "dtypes of another": lambda f, a: ([{**a, "dtypes": {"z": "float32"}}], GOOD, None),
    "no dtypes": lambda f, a: ([{**a, "dtypes": {}}], GOOD, None),
    "a note that is none": lambda f, a: ([{**a, "note": 3}], GOOD, None),
    "not_applicable a text": lambda f, a: ([{**a, "not_applicable": "abc"}], GOOD, None),
    "no file": lambda f, a: ([a], None, None),
    "an empty file": lambda f, a: ([a], b"", None),
    "half a file": lambda f, a: ([a], GOOD[:-9], None),
    "another file": lambda f, a: ([a], b"\xff" * 64, None),
    "a link": linked,
    "a pipe": piped,
    "a folder": foldered,
    "complex numbers": lambda f, a: ([a], arrays({Y: ("C64", [1], b"\0" * 8)}), None),
    "a dtype of nobody": lambda f, a: ([a], arrays({Y: ("F7", [1], b"\0" * 8)}), None),
    "a fingerprint of lists": lambda f, a: ([{"id": f["id"], "fingerprint": {"a": [1]}}], None, None),
    "done too early": lambda f, a: ([{"done": True}], None, None),
    "done twice": lambda f, a: ([{"id": f["id"], "error": "x"}, {"done": 1}, {"done": 1}, {"done": 1}], None, None),
    "versions twice": lambda f, a: ([GREETING], None, None),
    "versions a list": lambda f, a: ([], None, {"versions": ["1"]}),
    "versions of numbers": lambda f, a: ([], None, {"versions": {"numpy": 2}}),
    "cannot a text": lambda f, a: ([], None, {"versions": {}, "cannot": "everything"}),
    "budget of nobody": lambda f, a: ([], None, {"versions": {}, "budget": "generous"}),
    "budget a list": lambda f, a: ([], None, {"versions": {}, "budget": []}),
    "no greeting": lambda f, a: ([{"id": f["id"], "error": "x"}], None, None),
    "done for a greeting": lambda f, a: ([], None, {"done": True}),
    "a line without an end": flood,
    "closed at once": lambda f, a: sys.exit(0),
}

CONTROL = {  # right but for its numbers
    "a right one": lambda f, a: ([a, {"done": True}], GOOD, None),
    "no budget": lambda f, a: ([a, {"done": True}], GOOD, {"versions": {}}),  # which a reference must have
}


if __name__ == "__main__":
    main()
