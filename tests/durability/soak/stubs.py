"""Callers of the soak without the client library: numbered unary steps, callers who vanish in the
middle of a message, and sequences of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np
from grpc import aio

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from tests.durability.soak.callers import MODEL, Load
from tests.durability.soak.tally import Floats
from tests.server.wire.wire import OUTPUTS, WIDTH, batch, step_request
from tidegate import errors
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

OWN = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
Reply = TypeVar("Reply")
AGAIN = (errors.Unavailable, errors.RetryLater, errors.DeadlineExceeded)


@dataclass
class _Kept:
    """A step that is not in the store yet, as far as its caller knows."""

    number: int
    x: Floats
    y: Floats


class _Numbered:
    """One session by unary steps, whose caller keeps inputs and applies again what was lost, as
    docs/protocol.md has it; now and then it vanishes from a call before it asks again."""

    def __init__(self, load: Load, stub: pb_grpc.TidegateAsyncStub) -> None:
        self._load, self._stub, self.name = load, stub, load.new_name("u")
        self._ledger = load.ledger(self.name)
        self._kept: list[_Kept] = []

    async def live(self) -> None:
        events = self._load.tally.events
        await _asked(lambda: self._stub.Open(pb.OpenRequest(model=MODEL, session_id=self.name)))
        events["opened"] += 1
        for _ in range(self._load.chance.randrange(20, 120)):
            if self._load.stop.is_set():
                break
            xs = self._ledger.draw(self._load.chance.choice((1, 1, 1, 3)))
            if self._load.chance.random() < 0.1:
                await self._vanish(xs)
                events["vanished"] += 1
            await self._row(xs)
            await self._load.rest()
        await self._end()
        events["closed"] += 1

    async def _row(self, xs: Floats) -> None:
        """Apply a row, and what a crash took back before it."""
        number = self._ledger.steps
        while True:
            try:
                reply = await self._apply(number, xs)
                break
            except errors.StepGap as gap:
                await self._go_back(gap.expected_step or 0)
        ys = np.array(reply.outputs, np.float32).reshape(-1, OUTPUTS)
        kept = zip(range(number, number + len(xs)), xs, ys, strict=True)
        self._kept += [_Kept(*each) for each in kept]
        self._kept = [each for each in self._kept if each.number >= reply.durable_step]
        self._ledger.answered(xs, ys)

    async def _go_back(self, expected: int) -> None:
        again = [each for each in self._kept if each.number >= expected]
        if not again or again[0].number != expected:
            self._load.tally.lost += 1
            raise AssertionError(f"{self.name}: step {expected} was told to be stored")
        for each in again:
            try:
                reply = await self._apply(each.number, each.x[None])
            except errors.StepGap:
                return  # it was killed once more: from the beginning
            except (errors.StepConflict, errors.StepTooOld):
                continue  # applied before its reply was lost
            self._load.tally.events["applied again"] += 1
            if not np.allclose(np.array(reply.outputs), each.y, rtol=0, atol=1e-5):
                self._load.tally.wrong += 1
                self._load.tally.show(f"{self.name}: step {each.number} applied again differs")

    async def _apply(self, number: int, xs: Floats) -> pb.StepReply:
        request = step_request(self.name, number, xs)
        return await _asked(lambda: self._stub.Step(request, timeout=30))

    async def _vanish(self, xs: Floats) -> None:
        """Send the row, and leave before it is answered: by a cancelled call, with a whole
        connection, or in the middle of a frame."""
        ways = (self._cancel, self._hang_up, self._cut)
        await self._load.chance.choice(ways)(xs)

    async def _cancel(self, xs: Floats) -> None:
        call = self._stub.Step(step_request(self.name, self._ledger.steps, xs))
        await asyncio.sleep(self._load.chance.uniform(0, 0.003))
        call.cancel()

    async def _hang_up(self, xs: Floats) -> None:
        opens = [pb.LaneOpen(lane=0, session_id=self.name)]
        numbers = [self._ledger.steps]
        message = batch(1, [0], xs, numbers, lengths=[len(xs)], opens=opens)
        channel = aio.insecure_channel(self._load.address, OWN)
        try:
            call = pb_grpc.TidegateStub(channel).StepStream()
            async with asyncio.timeout(2):
                await call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
            pass  # nobody is there now
        finally:
            await channel.close()

    async def _cut(self, xs: Floats) -> None:
        host, _, port = self._load.address.removeprefix("ipv4:").split(",")[0].rpartition(":")
        settings, half_a_head = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x40\1\4\0\0\0\1\x82"
        try:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + half_a_head)
            await writer.drain()
            writer.transport.abort()
        except OSError:
            pass

    async def _end(self) -> None:
        self._ledger.check()
        await self._settle()
        close = pb.CloseRequest(model=MODEL, session_id=self.name)
        with suppress(errors.SessionGone):  # by the call before this one, whose answer was lost
            await _asked(lambda: self._stub.Close(close))

    async def _settle(self) -> None:
        """Wait until all of it is stored, then compare the count: before that a crash may take
        steps back, which are not lost."""
        get = pb.GetRequest(model=MODEL, session_id=self.name)
        while True:
            told = await _asked(lambda: self._stub.Get(get))
            if told.steps < self._ledger.steps:
                await self._go_back(told.steps)
            elif told.steps > self._ledger.steps or told.durable_step == told.steps:
                break
            await asyncio.sleep(0.1)
        self._load.tally.counted(self.name, told.steps, self._ledger.steps)


async def _asked(call: Callable[[], Awaitable[Reply]]) -> Reply:
    """Until it is answered, or refused for good."""
    while True:
        try:
            return await call()
        except aio.AioRpcError as raw:
            error = errors.from_rpc(raw)
            if not isinstance(error, AGAIN):
                raise error from None
            await asyncio.sleep(0.1)


async def numbered(load: Load) -> None:
    """One caller by unary steps."""

    async def life() -> None:
        async with aio.insecure_channel(load.address, OWN) as channel:
            stub = pb_grpc.TidegateStub(channel)
            for _ in range(3):
                await _Numbered(load, stub).live()

    await load.until_stopped("numbered steps", life)


async def sequences(load: Load) -> None:
    """One caller of `ModelInfer`, at a server that is not killed: its steps have no numbers."""

    async def life() -> None:
        async with aio.insecure_channel(load.address, OWN) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(3):
                await _sequence(load, stub)

    await load.until_stopped("a sequence", life)


async def _sequence(load: Load, stub: oip_grpc.GRPCInferenceServiceAsyncStub) -> None:
    name = load.new_name("o")
    ledger, steps = load.ledger(name), load.chance.randrange(5, 60)
    for at in range(steps):
        x = ledger.draw(1)
        request = oip.ModelInferRequest(model_name=MODEL, raw_input_contents=[x.tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=[1, WIDTH])
        request.parameters["sequence_id"].string_param = name
        request.parameters["sequence_start"].bool_param = at == 0
        request.parameters["sequence_end"].bool_param = at == steps - 1
        reply = await stub.ModelInfer(request, timeout=60)
        y = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(1, OUTPUTS)
        ledger.answered(x, y)
        await load.rest()
    ledger.check()
    load.tally.events["sequences"] += 1
