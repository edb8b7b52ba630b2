"""The tensors within an ONNX model's bytes: that all they say is there, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from server.bundle import proto
from server.bundle.proto import Message

FLOAT, INT32, INT64, DOUBLE, UINT64, COMPLEX64, COMPLEX128 = 1, 6, 7, 11, 13, 14, 15
BITS = {
    FLOAT: 32, 2: 8, 3: 8, 4: 16, 5: 16, INT32: 32, INT64: 64, 9: 8, 10: 16, DOUBLE: 64, 12: 32,
    UINT64: 64, COMPLEX64: 64, COMPLEX128: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4,
}  # fmt: skip
"""Of ONNX's types of numbers; texts (8) are none."""
DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
KINDS = {"float_data": "fixed32", "double_data": "fixed64"}  # others are int64
TYPED = {FLOAT: "float_data", COMPLEX64: "float_data", INT64: "int64_data", DOUBLE: "double_data",
         COMPLEX128: "double_data", UINT64: "uint64_data", 12: "uint64_data"}  # fmt: skip

MAX_AXES, FEW = 32, 32  # numbers of at most FEW are read, for they may be sizes

CONSTANT, SIZES, VALUES = range(3)
"""What a tensor follows from: the file alone; sizes of what comes in; its values."""


class Unsound(ValueError):
    """The model is refused; the message says why, as the end of a sentence about it."""


@dataclass(frozen=True)
class Tensor:
    """What is known of one: `numbers` where it is a few whole ones in the file."""

    origin: int
    numbers: tuple[int, ...] | None = None


def constant(tensor: Message) -> Tensor:
    """A tensor of the file, whose bytes are all there."""
    what = f"the tensor {tensor.get('name', '')[:100]!r}"
    if "external_data" in tensor or tensor.get("data_location", 0):
        raise Unsound(f"takes {what} from another file; a bundle's weights are in its graphs")
    kind, dims = tensor.get("data_type", 0), proto.whole_numbers(tensor.get("dims", []))
    if kind not in BITS or "segment" in tensor or "string_data" in tensor:
        raise Unsound(f"has {what} of the type {kind}, which is not known here")
    if len(dims) > MAX_AXES or any(each < 0 for each in dims):
        raise Unsound(f"has {what} of the impossible shape {dims[:MAX_AXES]}")
    count = prod(dims)
    _check_held(tensor, what, kind, count)
    read = kind in (INT32, INT64) and count <= FEW
    return Tensor(CONSTANT, _numbers(tensor, kind) if read else None)


def _check_held(tensor: Message, what: str, kind: int, count: int) -> None:
    """That it holds `count` values, in one of the ways in which it may."""
    ways = [name for name in ("raw_data", *DATA) if len(tensor.get(name, b""))]
    typed = TYPED.get(kind, "int32_data")
    if len(ways) > 1 or not set(ways) <= {"raw_data", typed}:
        raise Unsound(f"has {what} with data of more than one kind, or of another than its type")
    packed = (count * BITS[kind] + 7) // 8
    if "raw_data" in ways:
        held, wanted, unit = len(tensor["raw_data"]), packed, "bytes"
    else:
        held, unit = proto.count(tensor.get(typed, []), KINDS.get(typed, "int64")), "numbers"
        wanted = (
            packed if BITS[kind] == 4 else count * (2 if kind in (COMPLEX64, COMPLEX128) else 1)
        )
    if held != wanted:
        raise Unsound(f"has {what} with {held:,} {unit}, where its shape says {wanted:,}")


def _numbers(tensor: Message, kind: int) -> tuple[int, ...]:
    name, dtype = ("int64_data", "<i8") if kind == INT64 else ("int32_data", "<i4")
    if len(tensor.get("raw_data", b"")):
        return tuple(np.frombuffer(tensor["raw_data"], dtype).tolist())
    return tuple(proto.whole_numbers(tensor.get(name, [])))
