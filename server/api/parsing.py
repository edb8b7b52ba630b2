"""Bytes to messages, at a cost that stays within a few times the bytes.

Two bytes on the wire can be an empty message within a message, which takes a hundred in memory: 16
MB of those would take 600 MB and half a second before anybody could refuse them. So the fields of
large requests are counted before they are parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from inference import grpc_service_pb2 as oip
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import MAX_OPENS

M = TypeVar("M", bound=Message)

SMALL = 1 << 16  # bytes that cannot unfold to much
MANY = 1 << 14  # fields that no honest request passes
INFER_BYTES = 1 << 20  # of a request that is one step of one session
VARINT, FIXED64, PACKED, FIXED32 = 0, 1, 2, 5


def step_batch(packed: bytes) -> pb.StepBatch:
    """One message of `StepStream`.

    Raises:
        DecodeError: it is none, or names far too many lanes.
    """
    return _parse(
        pb.StepBatch.FromString, packed, 2 * MAX_OPENS
    )  # more than may be named, to be told so


def infer_request(packed: bytes) -> oip.ModelInferRequest:
    """A request of the Open Inference Protocol, of 1 MiB at most; raises as `step_batch`."""
    if len(packed) > INFER_BYTES:
        raise DecodeError(f"{len(packed)} bytes are too many for one step: at most {INFER_BYTES}")
    return _parse(oip.ModelInferRequest.FromString, packed, MANY)


def import_request(packed: bytes) -> pb.ImportRequest:
    """An `ImportRequest`; raises as `step_batch`."""
    return _parse(pb.ImportRequest.FromString, packed, MANY, inside=1)


def _parse(parse: Callable[[bytes], M], packed: bytes, most: int, inside: int = 0) -> M:
    if len(packed) > SMALL:
        _count(packed, most, inside)
    return parse(packed)


def _count(packed: bytes, left: int, inside: int) -> int:
    """Count the fields, those within field `inside` too; returns what is left of `left`.

    Raises:
        DecodeError: there are more than `left`, or something does not end where it should.
    """
    at = 0
    end = len(packed)
    while at < end:
        tag, at = (packed[at], at + 1) if packed[at] < 0x80 else _varint(packed, at)
        kind = tag & 7
        left -= 1
        if left < 0:
            raise DecodeError("far more fields than any request of this kind has")
        if kind == VARINT:
            _, at = _varint(packed, at)
        elif kind == PACKED:
            short = at < end and packed[at] < 0x80
            size, at = (packed[at], at + 1) if short else _varint(packed, at)
            if tag >> 3 == inside:
                left = _count(packed[at : at + size], left, 0)
            at += size
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise DecodeError(f"field {tag >> 3} has the unknown wire type {kind}")
    return left


def _varint(packed: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(packed) and shift < 70:
        byte = packed[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise DecodeError("a number does not end")
