"""One session's caller: call after call, until the time is over."""

import asyncio
import time
from collections.abc import Iterator

from tidegate.cli.bench.pace import Pace
from tidegate.cli.bench.record import Record
from tidegate.errors import SessionGone, TidegateError
from tidegate.model import FloatArray
from tidegate.session import Session

AFTER_ERROR = 0.05
"""Seconds of rest, lest a server that refuses everything be asked without end."""


async def call(
    session: Session, observations: Iterator[FloatArray], pace: Pace, record: Record
) -> None:
    """Step the session through observations: [I] is a step, [T, I] a chunk."""
    while (began := await pace.next()) is not None:
        given = next(observations)
        try:
            await (session.step(given) if given.ndim == 1 else session.chunk(given))
        except TidegateError as error:
            record.failed(error)
            await _recover(session, error, record)
        else:
            record.answered(given.size // given.shape[-1], time.perf_counter() - began)


async def _recover(session: Session, error: TidegateError, record: Record) -> None:
    await asyncio.sleep(AFTER_ERROR)
    if not isinstance(error, SessionGone):
        return
    try:
        await session.open()  # it expired, or the server is another one
    except TidegateError as again:
        record.failed(again)
