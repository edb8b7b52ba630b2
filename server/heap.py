"""Memory that comes back: glibc keeps what was freed for the next who asks, which after a burst of
large messages is nobody. Elsewhere than on glibc nothing is done.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # mallopt's names for them
MAPPED_FROM: Final = 1 << 20
"""Bytes from which a block is mapped by itself, and gone once it is freed. Left to itself, glibc
would raise that to 32 MiB with the first large block."""
LEFT: Final = 4 << 20  # bytes that may stay free at the end of the heap
ARENAS: Final = 2  # heaps; the interpreter's lock lets threads allocate one after another anyway
LOOK_SECONDS: Final = 1.0
MUCH: Final = 16 << 20  # bytes in flight after which there is something to give back


def settle() -> None:
    """Have large blocks go back to the system as they are freed; to be called before threads are
    begun."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(ARENA_MAX, ARENAS)
        libc.mallopt(MMAP_THRESHOLD, MAPPED_FROM)
        libc.mallopt(TRIM_THRESHOLD, LEFT)


async def tend(held: Callable[[], int]) -> None:
    """Give back what lies between blocks that are in use, each time that most of what calls `held`
    is gone."""
    libc, most = _libc(), 0
    while libc is not None:
        await asyncio.sleep(LOOK_SECONDS)
        now = held()
        most = max(most, now)
        if most > MUCH and now < most // 4:
            most = now
            await asyncio.to_thread(libc.malloc_trim, LEFT)


def _libc() -> Any:
    """glibc, if it is there."""
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        log.debug("no glibc")
        return None
