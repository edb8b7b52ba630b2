"""Shards: sessions that a proxy is to keep together on one server, told by a number in a header.

`docs/protocol.md` says the same in bytes, for callers in other languages.
"""

import zlib
from typing import Final

SHARD_KEY: Final = "tidegate-shard"
"""The header that holds the shard, as decimal digits."""
MOST_SHARDS: Final = 4096


def shard_of(session_id: str, shards: int) -> int:
    """A session's shard: the CRC-32 of its id in UTF-8, modulo their number."""
    return zlib.crc32(session_id.encode()) % shards
