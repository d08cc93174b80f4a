"""The fuzzer's changes to a right file, by what the file holds."""

import io
import json
import pickletools
import random
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

ODD_NUMBERS = (0, 1, -1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
ODD_JSON = (
    "1e999", "NaN", "-1", "0", "1e-400", "true", "null", '""', '"\\u001b[31m\\ud800"', "[]", "{}", "[[[[]]]]", "1.5",
    str(2**31), str(2**63), "9" * 400, "9" * 5000, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000,
    '"' + "x" * 3000 + '"', '[3, "x", null]', '["../../etc/passwd"]',
)  # fmt: skip


def change(data: bytes, kind: str, rng: random.Random, other: bytes) -> bytes:
    """Change the bytes of a file in one to four places."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        special = SPECIAL.get(kind)
        if special is not None and rng.random() < 0.6:
            try:
                data = special(data, rng, other)
                continue
            except (ValueError, KeyError, IndexError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
                pass  # an earlier change broke the format
        data = rng.choice(ANYWHERE)(data, rng, other)
    return data


def place(data: bytes, rng: random.Random) -> int:
    """A place, more often near the start or the end, where headers are, than among the numbers."""
    size = max(len(data), 1)
    where = rng.random()
    if where < 0.5:
        return min(int(rng.expovariate(1 / 600)), size - 1)
    return max(size - 1 - int(rng.expovariate(1 / 600)), 0) if where < 0.75 else rng.randrange(size)


def flip(data: bytes, rng: random.Random, _: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 4)):
        changed[place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_byte(data: bytes, rng: random.Random, _: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    changed[place(changed, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def truncate(data: bytes, rng: random.Random, _: bytes) -> bytes:
    return data[: place(data, rng)]


def set_length(data: bytes, rng: random.Random, _: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((*ODD_NUMBERS, len(data), len(data) + 1, rng.randrange(2**16))) % 256**width
    at = place(data, rng)
    return data[:at] + number.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    source = rng.choice((data, other))
    start, at = place(source, rng), place(data, rng)
    piece = source[start : start + rng.randint(1, 400)]
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def cut_out(data: bytes, rng: random.Random, _: bytes) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + rng.randint(1, 60) :]


ANYWHERE = (flip, flip, set_byte, set_byte, set_length, set_length, truncate, splice, cut_out)


def change_json(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Put something odd in the place of a value, or a key, or leave one out, or write it twice."""
    content = json.loads(data)
    places = list(walk(content))
    if not places:
        return data
    holder, key = rng.choice(places)
    what = rng.random()
    if what < 0.15:
        del holder[key]
    elif what < 0.25 and isinstance(holder, dict):
        holder[rng.choice(("", "__metadata__", "x\x1b[31m", "a" * 2000, str(key)[:-1]))] = holder.pop(key)
    elif what < 0.35:
        holder[key] = rng.choice(places)[0]
    else:
        holder[key] = "@ODD@"
    try:
        return json.dumps(content).replace('"@ODD@"', rng.choice(ODD_JSON)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return data
    except ValueError:  # it holds itself now
        return data


def walk(content: object) -> Iterator[tuple[dict | list, object]]:
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        yield content, key
        if isinstance(value, dict | list):
            yield from walk(value)


def change_header(data: bytes, rng: random.Random, other: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + length], rng, other)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


PIECES = (  # of pickles
    b"0", b"1", b"2", b"(", b")", b"]", b"}", b"l", b"d", b"t", b"\x85", b"\x86", b"\x87", b"N", b"\x88", b"\x89", b"a",
    b"e", b"s", b"u", b"b", b"R", b"\x81", b"Q", b"\x93", b"\x94", b"\x8f", b"\x90", b"\x91", b"o", b".", b"h\x00",
    b"h\x01", b"q\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"K\x00", b"K\xff", b"M\xff\xff",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"G\x7f\xf0" + bytes(6), b"F1e999\n", b"L99L\n",
    b"I01\n",
    b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"\x95" + b"\xff" * 8, b"cposix\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n",
    b"\x86" + b"2\x86" * 60 + b"}\x88\x88s", b"ctorch\nFloatStorage\n", b"iposix\nsystem\n", b"Pstorage\n",
)  # fmt: skip


def change_pickle(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Take an opcode out, put another in or exchange two, in one of the pickles at the start of a file."""
    places, start = [], 0
    for _ in range(5):
        stream = io.BytesIO(data[start : start + 100_000])
        try:
            places += [start + at for *_, at in pickletools.genops(stream)]
        except ValueError:
            break
        start += stream.tell()
    if len(places) < 4:
        raise ValueError("no pickle")
    i = rng.randrange(len(places) - 1)
    j = rng.randrange(len(places) - 1)
    one, another = data[places[i] : places[i + 1]], data[places[j] : places[j + 1]]
    piece = rng.choice((b"", rng.choice(PIECES), rng.choice(PIECES), another, one + one, one + rng.choice(PIECES)))
    return data[: places[i]] + piece + data[places[i + 1] :]


def change_archive(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Change a member of an archive, and write the archive again with right checksums; or a field of its directory."""
    if rng.random() < 0.25:
        sign = rng.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
        starts = [match.start() for match in re.finditer(re.escape(sign), data)]
        at = rng.choice(starts) + rng.randrange(4, 46)
        return data[:at] + bytes([rng.randrange(256) for _ in range(rng.choice((1, 2, 4)))]) + data[at + 2 :]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    heads = [i for i, (name, _) in enumerate(members) if name.endswith(("data.pkl", ".h5"))]
    i = rng.choice(heads) if heads and rng.random() < 0.8 else rng.randrange(len(members))
    name, content = members[i]
    inner = rng.choice(ANYWHERE)
    if name.endswith((".pkl", ".h5")) and rng.random() < 0.8:
        inner = change_pickle if name.endswith(".pkl") else change_hdf5
    members[i] = (name, inner(content, rng, other))
    if rng.random() < 0.1:
        members.append(members[rng.randrange(len(members))])
    written = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", how) as archive:
        warnings.simplefilter("ignore")  # about a name that is there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return written.getvalue()


def change_hdf5(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Change a few bytes behind a signature of HDF5's: of trees, heaps, tables of symbols, and the objects before."""
    starts = [match.start() for match in re.finditer(b"TREE|HEAP|SNOD|GCOL|\x89HDF", data)]
    if not starts:
        raise ValueError("no HDF5")
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.choice(starts)
        at = min(
            max(start + rng.choice((rng.randrange(4, 60), rng.randrange(4, 600), -rng.randrange(600))), 0),
            len(data) - 9,
        )
        width = rng.choice((1, 1, 2, 4, 8))
        number = rng.choice((*ODD_NUMBERS, *starts, len(data), rng.randrange(256), changed[at] + 1)) % 256**width
        changed[at : at + width] = number.to_bytes(width, "little")
    return bytes(changed)


SPECIAL = {
    "json": change_json,
    "hdf5": change_hdf5,
    "header": change_header,
    "pickle": change_pickle,
    "zip": change_archive,
}


def change_folder(folder: Path, rng: random.Random) -> None:
    """Change one to three files of a folder, or leave one out; the checksums of a bundle are made right again."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    texts = [file for file in files if file.read_bytes()[:1] == b"{"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        file = rng.choice(texts) if texts and rng.random() < 0.6 else rng.choice(files)
        if rng.random() < 0.04:
            file.unlink(missing_ok=True)
        elif file.exists():
            kind = "json" if file in texts else "header" if file.suffix == ".safetensors" else "bytes"
            file.write_bytes(change(file.read_bytes(), kind, rng, b""))
    about = folder / "bundle.json"
    if about.exists() and rng.random() < 0.7:
        import hashlib

        try:
            content = json.loads(about.read_bytes())
            for name in content["sha256"]:
                content["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            about.write_text(json.dumps(content))
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            pass  # it is broken already
