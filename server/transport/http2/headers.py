"""Requests' and replies' headers: HPACK blocks to what gRPC reads from them, and back.

A caller's requests mostly repeat their headers byte for byte, and a block that changes nothing in
the connection's table means the same as long as the table stays as it is: so it is decoded once.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

from server.transport.http2.frames import (
    COMPRESSION_ERROR,
    PROTOCOL_ERROR,
    ConnectionFault,
    StreamFault,
)

Metadata = tuple[tuple[str, str | bytes], ...]

LIST_BYTES: Final = 16_384
"""Headers of a request, as RFC 9113 counts them; told to callers as MAX_HEADER_LIST_SIZE."""
KNOWN, KNOWN_BYTES = 256, 1_024  # blocks remembered of a connection, and the largest of them
COMPRESSIONS: Final = ("identity", "gzip", "deflate")
CONNECTION: Final = {
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
}  # fmt: skip
TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

Fields = list[tuple[bytes, bytes]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's headers say.

    Attributes:
        method: /SERVICE/METHOD.
        metadata: all headers but HTTP's own; values of names that end in -bin are bytes.
        timeout: seconds that its caller waits, if it says so.
        compression: how messages that are marked so are compressed.
        http_status: other than 200 for a request that is none of gRPC's.
        refusal: why the call cannot be served, in words.
    """

    method: str
    metadata: Metadata
    timeout: float | None
    compression: str
    http_status: int = 200
    refusal: str | None = None


class _Table(HeaderTable):
    """Tells whether it has changed."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Heads(Generic[T]):
    """Reads the header blocks of one connection, every one of them, in their order.

    Args:
        mean: what fields mean; it may raise.
    """

    def __init__(self, mean: Callable[[Fields], T]) -> None:
        self._mean = mean
        self._decoder = Decoder(LIST_BYTES)
        self._table = self._decoder.header_table = _Table()
        self._known: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """What a block means.

        Raises:
            ConnectionFault: the block cannot be decoded.
        """
        known = self._known.get(block)
        return self._decode(block) if known is None else known

    def skip(self, block: bytes) -> None:
        """Trailers, or headers that come too late: only what they do to the table counts."""
        self._fields(block)

    def _decode(self, block: bytes) -> T:
        fields, kept = self._fields(block)
        meaning = self._mean(fields)
        if kept and len(block) <= KNOWN_BYTES:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[block] = meaning
        return meaning

    def _fields(self, block: bytes) -> tuple[Fields, bool]:
        """A block's fields, and whether it means the same when it comes again."""
        before = self._table.changes, self._table.maxsize
        try:
            fields = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise ConnectionFault(COMPRESSION_ERROR, f"headers: {error}") from error
        kept = before == (self._table.changes, self._table.maxsize)
        if not kept:
            self._known.clear()
        return fields, kept


def request(fields: Fields) -> Head:
    """A request's headers.

    Raises:
        StreamFault: what they say is no request.
    """
    pseudo, regular = _parted(fields)
    if not {b":method", b":path", b":scheme"} <= pseudo.keys():
        raise StreamFault(PROTOCOL_ERROR, "a request without its method, scheme or path")
    said = dict(reversed(regular))  # the first of a name counts
    timeout, problem = _timeout(said.get(b"grpc-timeout"))
    compression = said.get(b"grpc-encoding", b"identity").decode("ascii", "replace")
    if compression not in COMPRESSIONS:
        problem = f"messages compressed by {compression[:100]!r} cannot be read"
    return Head(
        method=pseudo[b":path"].decode("utf-8", "replace"),
        metadata=tuple(entry for name, value in regular for entry in _entries(name, value)),
        timeout=timeout,
        compression=compression,
        http_status=_http_status(pseudo[b":method"], said.get(b"content-type", b"")),
        refusal=problem,
    )


def _parted(fields: Fields) -> tuple[dict[bytes, bytes], Fields]:
    """HTTP's own fields, and the others."""
    pseudo: dict[bytes, bytes] = {}
    regular: Fields = []
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in pseudo:
                raise StreamFault(PROTOCOL_ERROR, "pseudo-headers in disorder")
            pseudo[name] = value
        elif name != name.lower() or name in CONNECTION or not name:
            raise StreamFault(PROTOCOL_ERROR, "a header that HTTP/2 forbids")
        else:
            regular.append((name, value))
    return pseudo, regular


def _http_status(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return 405
    kind = content_type.lower()
    return 200 if kind.startswith(b"application/grpc") and kind[16:17] in b"+;" else 415


def _timeout(said: bytes | None) -> tuple[float | None, str | None]:
    if said is None:
        return None, None
    parts = TIMEOUT.fullmatch(said)
    if parts is None:
        return None, f"no grpc-timeout: {said[:100]!r}"
    return int(parts[1]) * SECONDS[parts[2]], None


def _entries(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    text = name.decode("ascii", "replace")
    if not name.endswith(b"-bin"):
        return [(text, value.decode("latin-1"))]
    try:
        return [(text, _from_base64(each)) for each in value.split(b",")]
    except binascii.Error:
        raise StreamFault(PROTOCOL_ERROR, f"{text[:100]} is not in base64") from None


def _from_base64(value: bytes) -> bytes:
    return base64.b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), None, True)


def block(*fields: tuple[str, str | bytes]) -> bytes:
    """Headers as HPACK literals that no table keeps, so that a block means the same anywhere."""
    packed = [NeverIndexedHeaderTuple(name, value) for name, value in fields]
    return Encoder().encode(packed, huffman=False)


def ending(code: int, words: str = "", trailing: Metadata = ()) -> bytes:
    """A status as trailers."""
    fields: list[tuple[str, str | bytes]] = [("grpc-status", str(code))]
    if words:
        fields.append(("grpc-message", _percent(words)))
    fields += [(name, _value(name, value)) for name, value in trailing]
    return block(*fields)


def _percent(words: str) -> str:
    """As gRPC's Status-Message is written."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in words.encode()
    )


def _value(name: str, value: str | bytes) -> bytes:
    packed = value if isinstance(value, bytes) else value.encode()
    return base64.b64encode(packed).rstrip(b"=") if name.endswith("-bin") else packed


BEGINNING: Final = block(
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", ",".join(COMPRESSIONS)),
)
"""Every reply begins so."""
OK_ENDING: Final = ending(0)
