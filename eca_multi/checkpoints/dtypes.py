"""The dtypes that files of tensors hold, by their common name: how NumPy writes them, little-endian."""

BFLOAT16 = "bfloat16"  # NumPy has none: `Source.tensor` widens its numbers to float32, which is exact
DTYPES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": BFLOAT16, "bool": "?",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1",
}  # fmt: skip
