"""A compressed message, unpacked piece by piece: few bytes may unfold to many, and others wait."""

from __future__ import annotations

import zlib

FIRST, PIECE = 16_384, 262_144
"""Bytes that are unpacked at once, and then in each turn."""


class Unpacking:
    """One message.

    Args:
        limit: bytes that it may unfold to.

    Raises:
        ValueError: no compression is named.
    """

    def __init__(self, message: bytes, compression: str, limit: int) -> None:
        if compression not in ("gzip", "deflate"):
            text = "a compressed message in a call whose headers name no compression"
            raise ValueError(text)
        self._unpacker = zlib.decompressobj(31 if compression == "gzip" else 15)
        self._left, self._limit = message, limit
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes so far."""

    def go_on(self) -> bytes | None:
        """Unpack some more; the message once it is whole.

        Raises:
            ValueError: it is not compressed as the call's headers say.
            OverflowError: it is larger than the limit.
        """
        try:
            few = not self._pieces and self._limit > PIECE
            most = FIRST if few else min(PIECE, self._limit + 1 - self.size)
            piece = self._unpacker.decompress(self._left, most)
        except zlib.error as error:
            raise ValueError(f"a message cannot be unpacked: {error}") from error
        self._left = self._unpacker.unconsumed_tail
        self.size += len(piece)
        self._pieces.append(piece)
        if self.size > self._limit:
            raise OverflowError(f"a message unfolds to more than {self._limit} bytes")
        if self._unpacker.eof:
            return b"".join(self._pieces)
        if len(piece) < most and not self._left:
            raise ValueError("a compressed message is cut off")
        return None
