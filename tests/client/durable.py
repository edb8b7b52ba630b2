"""A server with a store that crashes when a test says so, and comes back at stored steps."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from tests.client.fake import NAME, WIDTH, FakeServer, detail, refuse
from tidegate.v1 import tidegate_pb2 as pb

REMEMBERED = 16
STEP = 4 * WIDTH


def outputs(inputs: list[bytes]) -> list[np.float32]:
    """What the model makes of a session's inputs: each output rests on all before, in order."""
    state, found = np.float32(0), []
    for x in inputs:
        one, two = np.frombuffer(x, "<f4")
        state = np.float32(0.9) * state + one + np.float32(0.1) * two * state
        found.append(state)
    return found


@dataclass
class Life:
    """A session: the inputs applied, and where its rows ended."""

    number: int
    inputs: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])
    stored: int = 0

    @property
    def count(self) -> int:
        """Steps applied."""
        return len(self.inputs)

    def back_to(self, step: int) -> None:
        """What follows was never stored."""
        del self.inputs[step:]
        self.ends = [end for end in self.ends if end <= step]

    def step(self, number: int, inputs: list[bytes]) -> pb.Reason.ValueType:
        """Apply a row once; 0 where it is applied, now or before."""
        end = number + len(inputs)
        if number == self.count:
            self.inputs += inputs
            self.ends.append(end)
        elif number > self.count:
            return pb.REASON_STEP_GAP
        elif number < self.count - REMEMBERED:
            return pb.REASON_STEP_TOO_OLD
        elif self.inputs[number:end] != inputs:
            return pb.REASON_STEP_CONFLICT
        return pb.REASON_UNSPECIFIED


class DurableServer(FakeServer):
    """A fake server that counts and stores.

    `faults` says what becomes of the n-th message: "before" and "after" are crashes, which lose
    what was not stored, before or after its rows were applied; "moved" and "down" refuse its rows.
    """

    def __init__(self, lag: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.lag, self._chance = lag, random.Random(seed)
        self.lives: dict[str, Life] = {}
        self.faults: dict[int, str] = {}
        self.dying = 0
        """So many calls about a whole session are answered after a crash that nobody heard of, as
        by another server that takes over."""
        self.telling = True
        """Whether it has a store, and tells what that holds."""

    def begin(self, session_id: str) -> Life:
        """A new life of the session."""
        self.lives[session_id] = life = Life(self._chance.randrange(1, 1 << 60))
        return life

    def crash(self) -> None:
        """Every session is back at a step that was stored: what was told, or a little more."""
        for life in self.lives.values():
            stored = self._chance.choice([end for end in life.ends if end >= life.stored])
            life.back_to(stored)
            life.stored = stored

    def _session(self, request: Any) -> pb.Session:
        life = self.lives.get(request.session_id) or self.begin(request.session_id)
        return pb.Session(
            model=NAME,
            version=1,
            session_id=request.session_id,
            steps=life.count,
            durable_step=life.stored,
            life=life.number,
        )

    async def Reset(self, request: Any, context: Any) -> pb.Session:  # noqa: N802
        await self._refuse("Reset", context)
        self.begin(request.session_id)
        return self._session(request)

    def _older(self) -> None:
        if self.dying:
            self.dying -= 1
            self.crash()

    async def Peek(self, request: Any, context: Any) -> pb.PeekReply:  # noqa: N802
        """The state, for which the inputs stand."""
        await self._refuse("Peek", context)
        self._older()
        packed = b"".join(self.lives[request.session_id].inputs)
        state = pb.StateTensor(
            name="inputs", dtype="float32", shape=[len(packed) // 4], data=packed
        )
        return pb.PeekReply(session=self._session(request), states=[state])

    async def Forecast(self, request: Any, context: Any) -> pb.ForecastReply:  # noqa: N802
        """The next output, were the input 0."""
        self._older()
        inputs = self.lives[request.session_id].inputs
        told = outputs([*inputs, bytes(STEP)])[-1]
        return pb.ForecastReply(first_step=len(inputs), outputs=[float(told)])

    async def Export(self, request: Any, context: Any) -> pb.Snapshot:  # noqa: N802
        self._older()
        life = self.lives[request.session_id]
        return pb.Snapshot(steps=life.count, remembered_outputs=b"".join(life.inputs))

    async def Fork(self, request: Any, context: Any) -> pb.Session:  # noqa: N802
        self._older()
        if request.new_session_id in self.lives:
            error = detail(pb.REASON_SESSION_EXISTS)
            await refuse(context, grpc.StatusCode.ALREADY_EXISTS, error)
        copy = self.begin(request.new_session_id)
        copy.inputs = list(self.lives[request.session_id].inputs)
        copy.ends = [copy.count]
        copy.stored = copy.count
        return self._session(pb.GetRequest(session_id=request.new_session_id))

    async def Close(self, request: Any, context: Any) -> pb.CloseReply:  # noqa: N802
        return pb.CloseReply(steps=self.lives.pop(request.session_id).count)

    async def StepStream(  # noqa: N802
        self, requests: AsyncIterator[pb.StepBatch], context: Any
    ) -> AsyncIterator[pb.StepBatchReply]:
        await self._refuse("StepStream", context)
        lanes: dict[int, str] = {}
        async for batch in requests:
            fault = self.faults.get(len(self.batches))
            self.batches.append(batch)
            if fault == "before":
                self.crash()
                await refuse(context, grpc.StatusCode.UNAVAILABLE)
            reply = self._answer(batch, lanes, fault)
            if fault == "after":
                self.crash()
                await refuse(context, grpc.StatusCode.UNAVAILABLE)
            yield reply

    def _answer(
        self, batch: pb.StepBatch, lanes: dict[int, str], fault: str | None
    ) -> pb.StepBatchReply:
        reply = pb.StepBatchReply(id=batch.id)
        for each in batch.opens:
            lanes[each.lane] = each.session_id
            life = self.lives.get(each.session_id) or self.begin(each.session_id)
            reply.opened.add(
                lane=each.lane, steps=life.count, durable_step=life.stored, life=life.number
            )
        rows = np.frombuffer(batch.lanes, "<u4").tolist()
        numbers = np.frombuffer(batch.first_steps, "<u8").tolist()
        lengths = np.frombuffer(batch.lengths, "<u4").tolist() or [1] * len(rows)
        at = 0
        for lane, number, length in zip(rows, numbers, lengths, strict=True):
            packed = batch.features[at : at + STEP * length]
            at += STEP * length
            inputs = [packed[k : k + STEP] for k in range(0, len(packed), STEP)]
            self._row(reply, self.lives[lanes[lane]], number, inputs, fault)
        return reply

    def _row(
        self,
        reply: pb.StepBatchReply,
        life: Life,
        number: int,
        inputs: list[bytes],
        fault: str | None,
    ) -> None:
        refusals = {"moved": pb.REASON_MOVED, "down": pb.REASON_STORE_DOWN}
        reason = refusals.get(fault or "") or life.step(number, inputs)
        if not reason:
            told = outputs(life.inputs[: number + len(inputs)])[number:]
            reply.outputs += np.array(told, "<f4").tobytes()
        else:
            error = detail(reason, expected_step=life.count)
            reply.errors.add(row=len(reply.status), error=error)
        reply.status += b"\2" if reason else b"\0"
        reply.first_steps += np.uint64(life.count if reason else number).tobytes()
        life.stored = max(
            [life.stored, *(end for end in life.ends if end <= life.count - self.lag)]
        )
        if self.telling:
            reply.durable_steps += np.uint64(life.stored).tobytes()
