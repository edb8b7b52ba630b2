"""One session, as callers hold it: what they await goes into rows, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate import errors
from tidegate._stream import packing
from tidegate._stream.calls import left, outputs_of, states_of
from tidegate._stream.course import Course
from tidegate._stream.rows import Row, Stage
from tidegate._stream.stream import NO_ROOM, Stream
from tidegate.model import FloatArray, Model, SessionInfo

if TYPE_CHECKING:
    from tidegate.client import Client

Told = TypeVar("Told")


class Session:
    """A session of one model. Steps may be asked for from several tasks; they go in that order.

    Steps that many sessions' callers await at the same time travel together.
    """

    def __init__(
        self, client: Client, model: str, session_id: str, version: int, keep: bool
    ) -> None:
        self._client = client
        self.name, self.session_id = packing.model_name(model), packing.session_id(session_id)
        self.version = packing.whole(version, "version")
        self.keep = keep
        """Whether leaving the `async with` block leaves the session live."""
        self.created = False
        """Whether opening made the session; False where it was live already."""
        self._course: Course | None = None
        self._stream: Stream

    async def __aenter__(self) -> Self:
        if self._course is None:  # a fork is open already
            await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.keep:
            return
        try:
            await self.close()
        except errors.SessionGone:
            pass  # it has ended, which is what was wanted
        except Exception:
            if error is None:  # the block's own failure tells more
                raise

    async def open(self, *, timeout: float | None = None) -> None:
        """Open the session, or attach to the live one and go on at its count."""
        usual = self._client.options.timeout
        expiry = asyncio.get_running_loop().time() + packing.seconds(timeout, usual)
        reply = await self._client.open_session(
            self.name, self.session_id, version=self.version, timeout=timeout
        )
        self.created, self.version = reply.created, reply.session.version
        self._stream = await self._client.stream_of(
            self.name, self.version, self.session_id, left(expiry)
        )
        self._stream.lanes.release(self.session_id)
        kept = self._stream.keeping.of_session()
        told = reply.session
        self._course = Course(
            self.session_id, told.steps, self._stream, kept, told.life, told.durable_step
        )
        self._course.seen = self._stream.breaks

    async def close(self, *, timeout: float | None = None) -> int:
        """End the session; returns the steps the server had applied."""
        steps = await self._client.close_session(
            self.name, self.session_id, version=self.version, timeout=timeout
        )
        if self._course is not None:
            self._stream.lanes.release(self.session_id)
            self._course.kept.clear()
        return steps

    async def info(self, *, timeout: float | None = None) -> SessionInfo:
        """The session as the server sees it."""
        return await self._client.get_session(
            self.name, self.session_id, version=self.version, timeout=timeout
        )

    @property
    def model(self) -> Model:
        """The model version to which the session is pinned."""
        self._opened()
        return self._stream.model

    @property
    def steps(self) -> int:
        """Steps known to be applied; the next step's number."""
        return self._opened().number

    @property
    def durable_step(self) -> int:
        """Steps below this number are in the server's store, as it told last; 0 without one."""
        return self._opened().durable

    async def step(self, features: ArrayLike, *, timeout: float | None = None) -> FloatArray:
        """Apply one observation of raw features; returns the outputs, float32 [O].

        Raises:
            BadInput: not the model's features, or not finite.
            TidegateError: as the server or the connection has it.
        """
        course, stream = self._course or self._opened(), self._stream
        packed = packing.one(features, stream.model)
        if course.unread and course.repeats(packed):
            expiry = self._expiry(timeout)
            known: FloatArray = await self._recall(course, packed, timeout)
            if len(known):
                return known[0]  # type: ignore[no-any-return]
            timeout = left(expiry)
        row = self._row(course, packed, 1, timeout)
        backlog = stream.backlog
        if backlog.crowded:
            await self._room(1, row.expiry)
        else:
            backlog.steps += 1
        timer = None if timeout is None else self._timer(course, timeout)
        try:
            course.put(row)
            return await row.done
        except BaseException:
            course.give_up(row)
            raise
        finally:
            backlog.free(1)
            if timer is not None:
                timer.cancel()

    async def chunk(self, features: ArrayLike, *, timeout: float | None = None) -> FloatArray:
        """Apply consecutive observations [T, I], in as many requests as needed; returns [T, O].

        `timeout` is for all of them together. Raises as `step`; `BadInput.index` counts in
        `features`.
        """
        course, model, expiry = self._opened(), self._stream.model, self._expiry(timeout)
        steps = packing.many(features, model)
        known = np.empty((0, model.width), np.float32)
        if course.unread and len(steps) and course.repeats(steps.tobytes()):
            known = await self._recall(course, steps.tobytes(), timeout)
            timeout = left(expiry)
        if len(known) == len(steps):
            return known
        try:
            outputs = await self._pieces(course, steps[len(known) :], len(known), timeout)
        except BaseException:
            course.unread_again(steps[: len(known)].tobytes(), known)
            raise
        return np.concatenate([known, *outputs])

    async def forecast(
        self, steps: int, features: ArrayLike | None = None, *, timeout: float | None = None
    ) -> FloatArray:
        """What the session would answer to its next `steps` steps, f32 [steps, O]; it stays as it
        is. `features` as in `Client.forecast`."""
        reply = await self._certain(
            lambda left: self._client._forecast(*self._named, steps, features, left),
            lambda told: told.first_step,
            timeout,
        )
        return outputs_of(reply, steps)

    async def fork(self, session_id: str, *, timeout: float | None = None) -> Session:
        """Copy the session under another id; the copy is open and goes on from here."""
        expiry = self._expiry(timeout)
        await self._certain(
            lambda left: self._client.fork_session(
                self.name, self.session_id, session_id, version=self.version, timeout=left
            ),
            lambda told: told.steps,
            timeout,
            undo=lambda: self._client.close_session(
                self.name, session_id, version=self.version, timeout=left(expiry)
            ),
        )
        copy = Session(self._client, self.name, session_id, self.version, self.keep)
        await copy.open(timeout=left(expiry))
        copy.created = True
        return copy

    async def reset(self, *, timeout: float | None = None) -> None:
        """Put the session back to step 0 and its initial state, after what is under way."""
        course, expiry = self._opened(), self._expiry(timeout)
        async with self._patience(timeout):
            while course.rows:
                await asyncio.wait([course.settled(course.rows[-1])])
        told = await self._client.reset_session(
            self.name, self.session_id, version=self.version, timeout=left(expiry)
        )
        course.restart(told.life, told.durable_step)

    async def export(self, *, timeout: float | None = None) -> bytes:
        """The session's snapshot, for `Client.import_session`."""
        snapshot = await self._certain(
            lambda left: self._client._snapshot(*self._named, left),
            lambda told: told.steps,
            timeout,
        )
        return snapshot.SerializeToString()

    async def peek(self, *, timeout: float | None = None) -> dict[str, NDArray[Any]]:
        """The session's state: each state's name and its values."""
        reply = await self._certain(
            lambda left: self._client._peek(*self._named, left),
            lambda told: told.session.steps,
            timeout,
        )
        return states_of(reply)

    @property
    def _named(self) -> tuple[str, int, str]:
        return self.name, self.version, self.session_id

    async def _certain(
        self,
        ask: Callable[[float | None], Awaitable[Told]],
        count: Callable[[Told], int],
        timeout: float | None,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> Told:
        """What the server tells of the session with all its steps. One that dies meanwhile leaves
        the call to another or to its own next life, which answers of the session as it was stored:
        its count shows that. Then what was lost is applied again, and the server asked once more.
        Where naming the session on a connection that held has not helped, it is somebody else's
        doing, and the truth."""
        course, expiry = self._course, self._expiry(timeout)
        remaining, named = await self._caught_up(timeout), -1
        while True:
            number = course.number if course is not None else 0
            told = await ask(remaining)
            if course is None or count(told) >= number or not course.kept.data:
                return told
            if named == self._stream.breaks:
                return told
            if undo is not None:
                await undo()
            course.seen = -1  # whether or not the connection has been heard to break
            remaining = await self._caught_up(left(expiry))
            named = course.seen

    async def _caught_up(self, timeout: float | None) -> float | None:
        """Where a crash may have taken steps back since, have them applied again first; returns the
        seconds that are left of the timeout."""
        course = self._course
        if course is None or not course.kept.data or course.seen == self._stream.breaks:
            return timeout
        breaks, row = self._stream.breaks, self._row(course, b"", 0, timeout)
        async with self._patience(timeout):
            try:
                course.put(row)
                await row.done
            except BaseException:
                course.give_up(row)
                raise
        course.seen = breaks
        return left(row.expiry)

    async def _pieces(
        self, course: Course, steps: FloatArray, before: int, timeout: float | None
    ) -> list[FloatArray]:
        most = self._stream.model.max_chunk
        pieces = [steps[at : at + most] for at in range(0, len(steps), most)]
        rows = [self._row(course, piece.tobytes(), len(piece), timeout) for piece in pieces]
        for row in rows:
            row.call = rows
        taken = await self._room(len(steps), rows[0].expiry)
        timer = None if timeout is None else self._timer(course, timeout)
        outputs: list[FloatArray] = []
        try:
            for row in rows:
                course.put(row)
            for row in rows:
                outputs.append((await row.done).reshape(row.steps, -1))
            return outputs
        except BaseException as error:
            _give_up(course, rows)
            if isinstance(error, errors.BadInput):
                error.offset = before + sum(map(len, outputs))
            raise
        finally:
            self._stream.backlog.free(taken)
            if timer is not None:
                timer.cancel()

    async def _recall(self, course: Course, packed: bytes, timeout: float | None) -> FloatArray:
        """The outputs of steps that were given up and are asked for again, from the first on; none
        where the first turns out not to have been applied."""
        claimed = course.claim()
        try:
            async with self._patience(timeout):
                for row in claimed:
                    row.expiry = self._expiry(timeout)
                    if row.stage is Stage.CUT_OFF:
                        course.send_again(row)
                    if row.stage <= Stage.SENT:
                        await course.settled(row)
        except BaseException:
            course.unclaim(claimed)
            raise
        return course.read(claimed, packed, self._stream.model.width)

    async def _room(self, steps: int, expiry: float) -> int:
        async with self._patience(left(expiry), NO_ROOM):
            return await self._stream.backlog.room(steps)

    @asynccontextmanager
    async def _patience(
        self, timeout: float | None, told: str = "no reply within the timeout"
    ) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(packing.seconds(timeout, self._client.options.timeout)):
                yield
        except TimeoutError:
            raise errors.DeadlineExceeded(told) from None

    def _row(self, course: Course, packed: bytes, steps: int, timeout: float | None) -> Row:
        done = self._client.loop.create_future()
        return Row(course, packed, steps, done, self._expiry(timeout))

    def _expiry(self, timeout: float | None) -> float:
        client = self._client
        if timeout is None:
            return client.loop.time() + client.options.timeout
        return client.loop.time() + packing.seconds(timeout, 0.0)

    def _timer(self, course: Course, timeout: float) -> asyncio.TimerHandle:
        """The usual timeout is watched over now and then; one of the caller's own, to the point."""
        error = errors.DeadlineExceeded(f"no reply within {timeout:g} s")
        loop = self._client.loop
        return loop.call_later(timeout, lambda: course.expire(loop.time(), error))

    def _opened(self) -> Course:
        if self._course is None:
            raise RuntimeError("the session is not open: use `async with client.session(...)`")
        return self._course


def _give_up(course: Course, rows: list[Row]) -> None:
    """Those not sent first, from the last, so that none of them goes instead of another."""
    for row in reversed(rows):
        if row.stage is Stage.WAITING:
            row.done.cancel()
            course.give_up(row)
    for row in rows:
        course.give_up(row)
