"""HTTP/2's frames as bytes, and what is wrong with them (RFC 9113, sections 4, 6 and 7)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

Packed = bytes | memoryview

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

HEADER_TABLE_SIZE, _, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

NO_ERROR, PROTOCOL_ERROR, _, FLOW_CONTROL_ERROR, _, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, _, ENHANCE_YOUR_CALM = range(7, 12)

HEAD: Final = struct.Struct(">HBBBL")
"""A frame's head: the upper 16 bits of its length, the lower 8, kind, flags, stream."""
HEAD_SIZE: Final = HEAD.size
SETTING: Final = struct.Struct(">HL")
NUMBER: Final = struct.Struct(">L")
TWO_NUMBERS: Final = struct.Struct(">LL")

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_WINDOW: Final = 2**31 - 1
LAST_STREAM: Final = 2**31 - 1


class ConnectionFault(Exception):
    """The peer broke the protocol, or asks for too much: the connection ends."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class StreamFault(Exception):
    """A request broke the protocol: its stream ends, the connection goes on."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """The head of a frame of `size` bytes."""
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return head(kind, flags, stream, len(payload)) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The values in a SETTINGS frame, those with bounds checked.

    Raises:
        ConnectionFault: it is none.
    """
    if len(payload) % SETTING.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of an odd size")
    values = list(SETTING.iter_unpack(payload))
    for name, value in values:
        if name == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "an initial window above 2^31-1")
        if name == MAX_FRAME_SIZE and not DEFAULT_FRAME_SIZE <= value < 2**24:
            raise ConnectionFault(PROTOCOL_ERROR, f"a largest frame of {value}")
        if name == 2 and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")
    return values


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(more))


def reset(stream: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, NUMBER.pack(code))


def goaway(last: int, code: int, words: str = "") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, TWO_NUMBERS.pack(last, code) + words.encode()[:200])


def headers(stream: int, block: bytes, flags: int, largest: int) -> bytes:
    """A header block in as many frames as it needs."""
    pieces = [block[at : at + largest] for at in range(0, len(block), largest)] or [b""]
    kinds = [HEADERS] + [CONTINUATION] * (len(pieces) - 1)
    ends = [0] * (len(pieces) - 1) + [END_HEADERS]
    flagged = [flags & END_STREAM] + [0] * (len(pieces) - 1)
    return b"".join(
        frame(kind, end | flag, stream, piece)
        for kind, end, flag, piece in zip(kinds, ends, flagged, pieces, strict=True)
    )


def unpadded(payload: Packed, flags: int) -> Packed:
    """A DATA or HEADERS payload without its padding.

    Raises:
        ConnectionFault: there is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
