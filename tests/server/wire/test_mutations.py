"""Ten thousand mutated messages against a running server: each is answered or refused, none harms.

Real `StepBatch` messages are bent in their bytes and in their columns, and sent as they are. Beside
them bystanders go on stepping, and must get what the equations say.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import OUTPUTS, Floats, batch, observations, rows_of
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from training.reference import NumpyNetwork

pytestmark = over(NATIVE)

MESSAGES, STREAMS = 2_000, 4
LANES = 8
METHOD = "/tidegate.v1.Tidegate/StepStream"
Mutation = Callable[[random.Random, bytes], bytes]


def originals(draw: random.Random, step: int) -> pb.StepBatch:
    """A message as a client sends it: single steps, chunks, ragged rows, numbered or not."""
    lanes = draw.sample(range(LANES), draw.randint(1, LANES))
    lengths = draw.choice([None, [draw.randint(1, 9) for _ in lanes]])
    rows = sum(lengths) if lengths else len(lanes)
    numbers = draw.choice([None, [draw.randint(0, 3)] * len(lanes)])
    opens = [pb.LaneOpen(lane=draw.randrange(LANES), session_id=f"m-{step}", create=True)]
    return batch(
        step, lanes, observations(step, rows), numbers, lengths,
        opens if draw.random() < 0.2 else (), timeout_us=draw.choice([0, 0, 1, 10**6]),
    )  # fmt: skip


def flip(draw: random.Random, packed: bytes) -> bytes:
    """A few bits."""
    bent = bytearray(packed)
    for _ in range(draw.randint(1, 4)):
        bent[draw.randrange(len(bent))] ^= 1 << draw.randrange(8)
    return bytes(bent)


def truncate(draw: random.Random, packed: bytes) -> bytes:
    """The end is lost."""
    return packed[: draw.randrange(len(packed))]


def rearrange(draw: random.Random, packed: bytes) -> bytes:
    """A range is lost, said twice or moved elsewhere."""
    start, stop = sorted(draw.choices(range(len(packed) + 1), k=2))
    piece, rest = packed[start:stop], packed[:start] + packed[stop:]
    at = draw.randrange(len(rest) + 1)
    return draw.choice([rest, packed[:stop] + piece + packed[stop:], rest[:at] + piece + rest[at:]])


def overwrite(draw: random.Random, packed: bytes) -> bytes:
    """A range becomes noise, zeros or ones."""
    start = draw.randrange(len(packed))
    size = min(len(packed) - start, draw.randint(1, 16))
    noise = draw.choice([draw.randbytes(size), bytes(size), b"\xff" * size])
    return packed[:start] + noise + packed[start + size :]


def bend_columns(draw: random.Random, packed: bytes) -> bytes:
    """Columns of other lengths, and values no client sends."""
    message = pb.StepBatch.FromString(packed)
    for name in draw.sample(["lanes", "first_steps", "lengths", "features"], draw.randint(1, 2)):
        column = getattr(message, name)
        setattr(message, name, draw.choice([_cut, _stretch, _extreme])(draw, column))
    return message.SerializeToString()


def bend_fields(draw: random.Random, packed: bytes) -> bytes:
    """Fields that are no columns, with values no client sends."""
    message = pb.StepBatch.FromString(packed)
    message.id = draw.choice([0, 2**64 - 1, message.id])
    message.model = draw.choice(["", "small", "other", "\x00", "m" * 5000])
    message.version = draw.choice([0, 1, -1, 2**63 - 1])
    message.timeout_us = draw.choice([0, 1, 2**64 - 1])
    for _ in range(draw.randint(0, 3)):
        message.opens.add(
            lane=draw.choice([0, 5, 2**20 - 1, 2**20, 2**32 - 1]),
            session_id=draw.choice(["", "m", "é" * 200, "m\n\x00", "m" * 300]),
            create=draw.random() < 0.5,
        )
    return message.SerializeToString()


def _cut(draw: random.Random, column: bytes) -> bytes:
    return column[: draw.randrange(len(column) + 1)]


def _stretch(draw: random.Random, column: bytes) -> bytes:
    return column + draw.randbytes(draw.randint(1, 40))


def _extreme(draw: random.Random, column: bytes) -> bytes:
    values = [b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x00\x80"]
    at = 4 * draw.randrange(len(column) // 4 + 1)
    return column[:at] + draw.choice(values) + column[at + 4 :]


MUTATIONS: tuple[Mutation, ...] = (
    flip, truncate, rearrange, overwrite, bend_columns, bend_columns, bend_fields,
)  # fmt: skip


def mutants(seed: int, count: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    for step in range(count):
        yield draw.choice(MUTATIONS)(draw, originals(draw, step).SerializeToString())


class Sender:
    """Sends mutated messages on a stream of its own, and a new one whenever that has ended."""

    def __init__(self, channel: aio.Channel, seed: int) -> None:
        self._open_call: Any = channel.stream_stream(METHOD)
        self._seed = seed
        self._call: Any = None
        self.outcomes: Counter[str] = Counter()

    async def run(self, count: int) -> None:
        for at, mutant in enumerate(mutants(self._seed, count)):
            try:
                async with asyncio.timeout(20):
                    await self._send(mutant)
            except Exception as error:
                text = f"seed {self._seed}, message {at}: {error!r}: {mutant.hex()}"
                raise AssertionError(text) from error

    async def _send(self, mutant: bytes) -> None:
        if self._call is None:
            await self._begin()
        try:
            await self._call.write(mutant)
            packed = await self._call.read()
        except aio.AioRpcError as error:
            self._ended(error)
            return
        reply = pb.StepBatchReply.FromString(packed)
        failed = {pb.Reason.Name(each.error.reason) for each in reply.errors}
        assert "REASON_INTERNAL" not in failed and "REASON_UNSPECIFIED" not in failed
        assert all(each.error.message and each.error.code for each in reply.errors)
        self.outcomes.update(failed or {"answered"})

    async def _begin(self) -> None:
        self._call = self._open_call()
        opens = [
            pb.LaneOpen(lane=k, session_id=f"m-{self._seed}-{k}", create=True) for k in range(8)
        ]
        await self._call.write(pb.StepBatch(model="small", opens=opens).SerializeToString())
        assert await self._call.read() is not aio.EOF

    def _ended(self, error: aio.AioRpcError) -> None:
        """Only what is no protobuf at all ends a stream."""
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
        assert str(error.details()).startswith("the bytes received are no message of this call")
        self.outcomes["no message"] += 1
        self._call = None


async def bystander(channel: aio.Channel, small: SmallModel, over: asyncio.Event, seed: int) -> int:
    """Steps its own session all the while, and compares every reply."""
    stub: Any = tidegate_pb2_grpc.TidegateStub(channel)
    name, xs = f"bystander-{seed}", observations(seed, 64)
    await stub.Open(pb.OpenRequest(model="small", session_id=name))
    call = stub.StepStream()
    await call.write(
        batch(0, [], np.empty((0, 5), np.float32), opens=[pb.LaneOpen(lane=0, session_id=name)])
    )
    await call.read()
    lstm = NumpyNetwork(small.weights)
    state, step = lstm.initial(), 0
    while not over.is_set():
        x: Floats = xs[step % 64][None]
        await call.write(batch(step, [0], x, [step]))
        reply = await call.read()
        expected, state = lstm.run(x, state)
        np.testing.assert_allclose(rows_of(reply), expected.reshape(-1, OUTPUTS), atol=1e-5)
        step += 1
        await asyncio.sleep(0.005)
    return step


async def storm(server: RunningServer, small: SmallModel) -> tuple[Counter[str], int]:
    over = asyncio.Event()
    async with aio.insecure_channel(server.address) as channel:
        beside = [asyncio.create_task(bystander(channel, small, over, seed)) for seed in range(3)]
        senders = [Sender(channel, seed) for seed in range(STREAMS)]
        await asyncio.gather(*(each.run(MESSAGES // STREAMS) for each in senders))
        over.set()
        steps = await asyncio.gather(*beside)
    return sum((each.outcomes for each in senders), Counter()), min(steps)


def memory(server: RunningServer) -> int:
    """Resident bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1])


def test_thousands_of_mutated_messages_harm_nobody(small: SmallModel) -> None:
    with running_server(small.repository) as server:
        before = memory(server)
        outcomes, steps = asyncio.run(storm(server, small))
        assert memory(server) - before < 200 << 20
        assert server.terminate() == 0
        assert "failed unexpectedly" not in server.log()
        ours = [line for line in server.log().splitlines() if "/server/" in line]
        assert not ours, "a trace of our own code is in the log"
    assert sum(outcomes.values()) >= MESSAGES
    assert steps > 100
    kinds = ["answered", "no message", *(f"REASON_{each}" for each in (
        "BAD_INPUT", "STEP_GAP", "STEP_CONFLICT", "UNKNOWN_LANE", "DEADLINE",
    ))]  # fmt: skip
    assert all(outcomes[kind] > 10 for kind in kinds), outcomes
