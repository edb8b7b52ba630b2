"""Calls about whole sessions that travel together: opens, and closes.

An idle client sends at once; while calls are under way, the next ones gather. Whatever fails ends
every waiter, and the next to ask starts anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tidegate import errors
from tidegate.errors import TidegateError
from tidegate.options import RetryPolicy

Reply = TypeVar("Reply")

Kind = tuple[str, int, int]
"""Model and version, as the caller named them, and the sessions' shard."""

UNDER_WAY = 2
AT_ONCE = 1024  # sessions in a call
WATCH_SECONDS = 0.25
GRACE = 0.05  # seconds for a call whose time is over to tell why it took so long


@dataclass(eq=False, slots=True)
class Asked(Generic[Reply]):
    """One session's call, and when its caller stops to wait."""

    session_id: str
    done: asyncio.Future[Reply]
    expiry: float
    attempts: int = 1


One = Callable[[Kind, str, float], Awaitable[Reply]]
Many = Callable[[Kind, Sequence[str], float], Awaitable[Sequence[Reply | TidegateError]]]
"""Both get the time by the event loop's clock when the last caller stops to wait."""


class Gathered(Generic[Reply]):
    """Makes one call of many, inside one event loop.

    Args:
        one: calls for a single session.
        many: calls for several; tells what became of each.
    """

    def __init__(self, one: One[Reply], many: Many[Reply], retry: RetryPolicy) -> None:
        self._one, self._many, self._retry = one, many, retry
        self._most = AT_ONCE
        self._open: set[Asked[Reply]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._waiting: dict[Kind, deque[Asked[Reply]]] = {}
        self._carriers: dict[Kind, set[asyncio.Task[None]]] = {}

    async def ask(self, kind: Kind, session_id: str, expiry: float, prompt: bool = False) -> Reply:
        """Have it done for a session; `prompt` is for an expiry to the point, which costs a timer.

        Raises:
            TidegateError: why it was not; `DeadlineExceeded` where nothing was heard by `expiry`.
        """
        loop = asyncio.get_running_loop()
        asked: Asked[Reply] = Asked(session_id, loop.create_future(), expiry)
        self._put(kind, asked)
        if self._watch is None:
            self._watch = loop.call_later(WATCH_SECONDS, self._look)
        self._open.add(asked)
        timer = loop.call_at(expiry + GRACE, _expire, asked) if prompt else None
        try:
            return await asked.done
        finally:
            self._open.discard(asked)
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        """End the waiting of callers whose time is over, often enough for the usual timeout."""
        loop = asyncio.get_running_loop()
        late = loop.time() - GRACE
        for asked in [each for each in self._open if each.expiry <= late]:
            _expire(asked)
        self._watch = loop.call_later(WATCH_SECONDS, self._look) if self._open else None

    def _put(self, kind: Kind, asked: Asked[Reply]) -> None:
        self._waiting.setdefault(kind, deque()).append(asked)
        carriers = self._carriers.setdefault(kind, set())
        if len(carriers) < UNDER_WAY:  # it begins when whoever asks just now has asked
            task = asyncio.get_running_loop().create_task(self._carry(kind))
            carriers.add(task)
            task.add_done_callback(carriers.discard)

    async def _carry(self, kind: Kind) -> None:
        while some := self._take(kind):
            try:
                outcomes = await self._send(kind, some)
                for asked, outcome in zip(some, outcomes, strict=True):
                    self._settle(kind, asked, outcome)
            except errors.MessageTooLarge as error:
                self._shrink(kind, some, error)
            except TidegateError as error:  # which was tried again already, where that may help
                _fail(some, error)
            except Exception as error:
                _fail(some, errors.internal(error))
            except BaseException:  # a program cancels all tasks there are, say
                told = errors.Cancelled("the client's tasks were cancelled")
                _fail([*some, *self._waiting.pop(kind, ())], told)
                raise

    def _take(self, kind: Kind) -> list[Asked[Reply]]:
        waiting, some = self._waiting.get(kind) or deque(), list[Asked[Reply]]()
        while waiting and len(some) < self._most:
            asked = waiting.popleft()
            if not asked.done.done():
                some.append(asked)
        return some

    async def _send(
        self, kind: Kind, some: Sequence[Asked[Reply]]
    ) -> Sequence[Reply | TidegateError]:
        expiry = max(asked.expiry for asked in some)
        if len(some) == 1:
            return [await self._one(kind, some[0].session_id, expiry)]
        try:
            return await self._many(kind, [asked.session_id for asked in some], expiry)
        except errors.RetryLater as error:  # which gRPC does not repeat for us here
            return [error] * len(some)

    def _settle(self, kind: Kind, asked: Asked[Reply], outcome: Reply | TidegateError) -> None:
        if asked.done.done():
            return
        if not isinstance(outcome, TidegateError):
            asked.done.set_result(outcome)
        elif (pause := self._retry.after(outcome, asked.attempts)) is not None:
            asked.attempts += 1
            asyncio.get_running_loop().call_later(pause, self._put, kind, asked)
        else:
            asked.done.set_exception(outcome)

    def _shrink(
        self, kind: Kind, some: Sequence[Asked[Reply]], error: errors.MessageTooLarge
    ) -> None:
        """A limit on the way is lower than ours: keep to half of what did not pass."""
        if len(some) > 1:
            self._most = len(some) // 2
            self._waiting.setdefault(kind, deque()).extendleft(reversed(some))
        else:
            _fail(some, error)


def _fail(some: Sequence[Asked[Reply]], error: TidegateError) -> None:
    for asked in some:
        if not asked.done.done():
            asked.done.set_exception(error)


def _expire(asked: Asked[Reply]) -> None:
    if not asked.done.done():
        asked.done.set_exception(errors.DeadlineExceeded("no reply within the timeout"))
