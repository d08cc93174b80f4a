"""Files of torch.save, read without running anything that is in them."""

import argparse
import re
import warnings
import zipfile
from pickle import UnpicklingError
from pickletools import genops
from typing import Any

import numpy as np
import torch

from eca_multi._checkpoints import CheckpointError


def load(name: str) -> tuple[Any, np.ndarray | None]:
    """Return what is in a file, and of an archive its bytes, mapped into memory: its tensors have no values then, but
    places in there, for `array_of`.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete file of torch's, or holds what would run code.
    """
    with open(name, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            _check_archive(name)
        # A namespace of training options and NumPy's numbers hold no code and are often there.
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format's age
            content = torch.load(name, map_location="meta" if zipped else "cpu", weights_only=True)
        return content, np.memmap(name, np.uint8, "r") if zipped else None
    except zipfile.BadZipFile as error:
        raise incomplete(name, str(error)) from error
    except UnpicklingError as error:
        raise _refused(name, str(error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        raise incomplete(name, str(error).split(". ")[0] or type(error).__name__) from error


def _check_archive(name: str) -> None:
    """Compare the checksums, which torch does not when it maps a file."""
    with zipfile.ZipFile(name) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("compressed, which torch never does")
        for entry in entries if any(entry.CRC for entry in entries) else ():  # torch can be told to write none
            with archive.open(entry) as member:
                while member.read(1 << 20):  # to the end: that is where it is compared
                    pass


def _harmless() -> list[Any]:
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    old = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *kinds, *old]


def _refused(name: str, reason: str) -> CheckpointError:
    """The error for a file that the restricted unpickler does not read: name what it would call, if it says so."""
    match = re.search(r"(?:GLOBAL|[Uu]nsupported (?:global|class)|function)[: ]+(?:GLOBAL )?(\w+(?:\.\w+)+)", reason)
    called = [match[1]] if match else _called(name)
    if called:
        return CheckpointError(
            f"path must name a file of tensors. Received: {name!r}, which would call {' and '.join(called)}. "
            "Nothing of it was run. Save the state dict instead of the model, or take a .safetensors file."
        )
    match = re.search(r"WeightsUnpickler error: (.*)", reason)
    return incomplete(name, match[1].strip() if match else "not a file of torch's")


def _called(name: str) -> list[str]:
    """What a bare pickle names: its opcodes are listed, none is carried out."""
    found: list[str] = []
    strings: list[str] = []
    with open(name, "rb") as file:
        try:
            for opcode, argument, _ in genops(file):
                if opcode.name == "STACK_GLOBAL":
                    found.append(".".join(strings[-2:]))
                elif opcode.name == "GLOBAL":
                    found.append(str(argument).replace(" ", "."))
                elif isinstance(argument, str):
                    strings.append(argument)
        except ValueError:  # no pickle
            return []
    return sorted(set(found))


def incomplete(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"path must name a complete file that torch.save wrote. Received: {name!r} ({reason}). "
        "Copy the file again; a .pth.tar is not a tar archive and must not be unpacked."
    )


def array_of(value: torch.Tensor, data: np.ndarray | None) -> np.ndarray:
    """Return a tensor's values: of an archive, where they stand in the file."""
    if data is None:
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    half = value.dtype == torch.bfloat16
    dtype = np.dtype("<u2" if half else str(value.dtype).removeprefix("torch."))
    # The offset is in torch's notes on serialization.
    offset = getattr(value.untyped_storage(), "_checkpoint_offset") + value.storage_offset() * dtype.itemsize  # noqa: B009  (not in torch's types)
    strides = [step * dtype.itemsize for step in value.stride()]
    array: np.ndarray = np.ndarray(tuple(value.shape), dtype, data, offset, strides)
    return (array.astype("<u4") << 16).view("<f4") if half else array
