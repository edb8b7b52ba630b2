"""Reads the bytes of an ONNX model field by field, so that `soundness` can look at all of them.

Stricter than protobuf, which passes over what it does not know and takes the last of two: a field
that is unknown here, of another kind or there twice is refused. So onnxruntime cannot find anything
in the bytes that was not looked at. Weights stay where they lie in the bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_FIELDS, MAX_LISTED = 2_000_000, 65_536
MAX_DEPTH = 64  # protobuf itself gives up at 100
INT32 = range(-(2**31), 2**31)

Message = dict[str, Any]
"""Fields by name. Repeated ones are lists; those of numbers, of pieces that are encoded yet."""

VARINTS, FIXED = {"int32", "int64"}, {"fixed32": 4, "fixed64": 8}
PLAIN = {*VARINTS, *FIXED, "text", "bytes"}

# By message and number: name, kind, and whether it is repeated. What is refused wherever it occurs
# (data in other files, sparse tensors, graphs for training) is "bytes", and never opened.
FIELDS: dict[str, dict[int, tuple[str, str, bool]]] = {
    "Model": {
        1: ("ir_version", "int64", False),
        2: ("producer_name", "text", False),
        3: ("producer_version", "text", False),
        4: ("domain", "text", False),
        5: ("model_version", "int64", False),
        6: ("doc_string", "text", False),
        7: ("graph", "Graph", False),
        8: ("opset_import", "OperatorSetId", True),
        14: ("metadata_props", "StringStringEntry", True),
        20: ("training_info", "bytes", True),
        25: ("functions", "Function", True),
    },
    "OperatorSetId": {1: ("domain", "text", False), 2: ("version", "int64", False)},
    "StringStringEntry": {1: ("key", "text", False), 2: ("value", "text", False)},
    "Graph": {
        1: ("node", "Node", True),
        2: ("name", "text", False),
        5: ("initializer", "Tensor", True),
        10: ("doc_string", "text", False),
        11: ("input", "ValueInfo", True),
        12: ("output", "ValueInfo", True),
        13: ("value_info", "ValueInfo", True),
        14: ("quantization_annotation", "TensorAnnotation", True),
        15: ("sparse_initializer", "bytes", True),
        16: ("metadata_props", "StringStringEntry", True),
    },
    "Function": {
        1: ("name", "text", False),
        4: ("input", "text", True),
        5: ("output", "text", True),
        6: ("attribute", "text", True),
        7: ("node", "Node", True),
        8: ("doc_string", "text", False),
        9: ("opset_import", "OperatorSetId", True),
        10: ("domain", "text", False),
        11: ("attribute_proto", "Attribute", True),
        12: ("value_info", "ValueInfo", True),
        13: ("overload", "text", False),
        14: ("metadata_props", "StringStringEntry", True),
    },
    "Node": {
        1: ("input", "text", True),
        2: ("output", "text", True),
        3: ("name", "text", False),
        4: ("op_type", "text", False),
        5: ("attribute", "Attribute", True),
        6: ("doc_string", "text", False),
        7: ("domain", "text", False),
        8: ("overload", "text", False),
        9: ("metadata_props", "StringStringEntry", True),
    },
    "Attribute": {
        1: ("name", "text", False),
        2: ("f", "fixed32", False),
        3: ("i", "int64", False),
        4: ("s", "bytes", False),
        5: ("t", "Tensor", False),
        6: ("g", "Graph", False),
        7: ("floats", "fixed32", True),
        8: ("ints", "int64", True),
        9: ("strings", "bytes", True),
        10: ("tensors", "Tensor", True),
        11: ("graphs", "Graph", True),
        13: ("doc_string", "text", False),
        14: ("tp", "Type", False),
        15: ("type_protos", "Type", True),
        20: ("type", "int32", False),
        21: ("ref_attr_name", "text", False),
        22: ("sparse_tensor", "bytes", False),
        23: ("sparse_tensors", "bytes", True),
    },
    "Tensor": {
        1: ("dims", "int64", True),
        2: ("data_type", "int32", False),
        3: ("segment", "bytes", False),
        4: ("float_data", "fixed32", True),
        5: ("int32_data", "int32", True),
        6: ("string_data", "bytes", True),
        7: ("int64_data", "int64", True),
        8: ("name", "text", False),
        9: ("raw_data", "bytes", False),
        10: ("double_data", "fixed64", True),
        11: ("uint64_data", "int64", True),
        12: ("doc_string", "text", False),
        13: ("external_data", "bytes", True),
        14: ("data_location", "int32", False),
        16: ("metadata_props", "StringStringEntry", True),
    },
    "TensorAnnotation": {
        1: ("tensor_name", "text", False),
        2: ("quant_parameter_tensor_names", "StringStringEntry", True),
    },
    "ValueInfo": {
        1: ("name", "text", False),
        2: ("type", "Type", False),
        3: ("doc_string", "text", False),
        4: ("metadata_props", "StringStringEntry", True),
    },
    "Type": {
        1: ("tensor_type", "Type.Tensor", False),
        4: ("sequence_type", "Type.Sequence", False),
        6: ("denotation", "text", False),
        9: ("optional_type", "Type.Optional", False),
    },
    "Type.Tensor": {1: ("elem_type", "int32", False), 2: ("shape", "TensorShape", False)},
    "Type.Sequence": {1: ("elem_type", "Type", False)},
    "Type.Optional": {1: ("elem_type", "Type", False)},
    "TensorShape": {1: ("dim", "TensorShape.Dimension", True)},
    "TensorShape.Dimension": {
        1: ("dim_value", "int64", False),
        2: ("dim_param", "text", False),
        3: ("denotation", "text", False),
    },
}


class Malformed(ValueError):
    """The bytes are no ONNX model, or hold what is not known here; the message says what."""


def read(data: bytes) -> Message:
    """The whole model.

    Raises:
        Malformed: cut short, or a field is unknown, of another kind, there twice or nested too
            deep, or there are too many.
    """
    return _Reader(data).message(0, len(data), "Model", 0)


def count(pieces: list[memoryview], kind: str) -> int:
    """How many numbers a repeated field of that kind holds."""
    if kind in FIXED:
        return sum(map(len, pieces)) // FIXED[kind]
    return sum(int((np.frombuffer(piece, np.uint8) < 128).sum()) for piece in pieces)


def whole_numbers(pieces: list[memoryview]) -> list[int]:
    """The numbers of a repeated int64 or int32 field.

    Raises:
        Malformed: there are more than anybody lists.
    """
    if count(pieces, "int64") > MAX_LISTED:
        raise Malformed(f"lists more than {MAX_LISTED:,} whole numbers in one field")
    found = []
    for piece in pieces:
        at = 0
        while at < len(piece):
            number, at = _varint(piece, at, len(piece))
            found.append(_signed(number))
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._fields = 0

    def message(self, at: int, end: int, kind: str, depth: int) -> Message:
        """The fields between two places."""
        if depth > MAX_DEPTH:
            raise Malformed(f"is nested deeper than {MAX_DEPTH} messages")
        found: Message = {}
        while at < end:
            tag, at = _varint(self._data, at, end)
            known = FIELDS[kind].get(tag >> 3)
            if known is None:
                raise Malformed(f"holds the unknown field {tag >> 3} in {kind}")
            at = self._field(found, known, tag & 7, at, end, depth)
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise Malformed(f"holds more than {MAX_FIELDS:,} fields")
        return found

    def _field(
        self, found: Message, known: tuple[str, str, bool], wire: int, at: int, end: int, depth: int
    ) -> int:
        """Read one field into `found`; where the next one begins."""
        name, kind, repeated = known
        stop, start = self._extent(known, wire, at, end)
        value: Any
        if kind not in PLAIN:
            value = self.message(start, stop, kind, depth + 1)
        elif kind in VARINTS or kind in FIXED:
            value = self._numbers(known, start, stop)
        else:
            value = self._data[start:stop]
            value = _text(value, name) if kind == "text" else value
        if repeated:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Malformed(f"holds {name} twice in one message")
        else:
            found[name] = value
        return stop

    def _extent(
        self, known: tuple[str, str, bool], wire: int, at: int, end: int
    ) -> tuple[int, int]:
        """Where a field's content ends and begins."""
        name, kind, repeated = known
        if wire == 2 and (repeated or kind in ("text", "bytes") or kind not in PLAIN):
            length, at = _varint(self._data, at, end)
            if length > end - at:
                raise Malformed("is cut short")
            return at + length, at
        if wire == 0 and kind in VARINTS:
            return _varint(self._data, at, end)[1], at
        if kind in FIXED and wire == {"fixed64": 1, "fixed32": 5}[kind]:
            if at + FIXED[kind] > end:
                raise Malformed("is cut short")
            return at + FIXED[kind], at
        raise Malformed(f"has {name} of another kind than ONNX's")

    def _numbers(self, known: tuple[str, str, bool], start: int, stop: int) -> Any:
        """A piece of a repeated field as it is encoded; else the number itself, or its bytes."""
        name, kind, repeated = known
        piece = self._data[start:stop]
        if kind in FIXED:
            if len(piece) % FIXED[kind]:
                raise Malformed(f"has a part of a number in {name}")
            return piece
        if repeated:
            if len(piece) and piece[-1] > 127:
                raise Malformed("is cut short")
            return piece
        number = _signed(_varint(piece, 0, len(piece))[0])
        if kind == "int32" and number not in INT32:
            raise Malformed(f"has {name} {number}, which is out of range")
        return number


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """A number of 64 bits, and where it ends."""
    number = shift = 0
    while at < end:
        byte = data[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            if number >= 2**64:
                break
            return number, at
        shift += 7
        if shift > 63:
            break
    raise Malformed("is cut short, or holds a number of more than 64 bits")


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _text(piece: memoryview, name: str) -> str:
    try:
        return bytes(piece).decode()
    except UnicodeDecodeError:
        raise Malformed(f"has text in {name} that is no UTF-8") from None
