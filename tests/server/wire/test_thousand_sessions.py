"""The proof: 1,000 sessions at once, with every disturbance, each equal to its own NumPy LSTM.

Four hundred sessions step by unary calls and six hundred over four columnar streams, of random
lengths, in random chunks and interleavings. Calls are repeated, cancelled in flight and sent with
too short a deadline; rows carry NaN; streams break with messages unanswered and are resumed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import running_server
from tests.server.transports import AIO, NATIVE
from tests.server.wire.wire import Floats, batch, observations, outputs, reasons, step_request
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from training.reference import NumpyNetwork

CUDA = "from tests.server.engine import double; double.serve(0.04)"

UNARY, STREAMED, STREAMS = 400, 600, 4
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@dataclass
class Walk:
    """One session: what it observes, how far it is, and what it was answered."""

    name: str
    features: Floats
    answers: list[Floats] = field(default_factory=list)
    at: int = 0
    size: int = 0

    @property
    def done(self) -> bool:
        return self.at == len(self.features)

    def next_chunk(self, rng: random.Random) -> int:
        """Steps to send next; what was not answered is sent again as it was."""
        left = len(self.features) - self.at
        self.size = self.size or min(left, rng.choice([1, 1, 1, 1, 2, 3, 8, 20]))
        return self.size

    def take(self, rows: Floats) -> None:
        """The next steps were answered."""
        self.answers.append(rows)
        self.at += len(rows)
        self.size = 0


def walks(prefix: str, count: int, rng: random.Random) -> list[Walk]:
    return [
        Walk(f"{prefix}-{k}", observations(rng.randrange(2**30), rng.randint(1, 60)))
        for k in range(count)
    ]


async def walk_by_calls(
    stub: tidegate_pb2_grpc.TidegateAsyncStub, walk: Walk, rng: random.Random, seen: Counter[str]
) -> None:
    await stub.Open(pb.OpenRequest(model="small", session_id=walk.name))
    while not walk.done:
        size = walk.next_chunk(rng)
        request = step_request(walk.name, walk.at, walk.features[walk.at : walk.at + size])
        await disturb(stub, request, rng, seen)
        reply = await stub.Step(request)
        seen["remembered"] += reply.remembered
        assert (reply.first_step, reply.steps) == (walk.at, size)
        walk.take(outputs(reply))
        if rng.random() < 0.1:
            again = await stub.Step(request)
            assert again.remembered and list(again.outputs) == list(reply.outputs)
            seen["repeated"] += 1


async def disturb(
    stub: tidegate_pb2_grpc.TidegateAsyncStub,
    request: pb.StepRequest,
    rng: random.Random,
    seen: Counter[str],
) -> None:
    """Before the real call: nothing, or one that is cancelled, late, or rubbish."""
    kind = rng.choice(["nothing"] * 12 + ["cancel", "deadline", "nan"])
    if kind == "nothing":
        return
    if kind == "nan":
        bad = pb.StepRequest()
        bad.CopyFrom(request)
        bad.features[rng.randrange(len(bad.features))] = float("nan")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Step(bad)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:
        call = stub.Step(request, timeout=rng.uniform(0.0005, 0.01) if kind == "deadline" else None)
        if kind == "cancel":
            await asyncio.sleep(rng.choice([0, 0.001, 0.005]))
            call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
        else:
            seen[f"{kind} too late"] += 1
    seen[kind] += 1


async def walk_by_streams(
    address: str, group: list[Walk], rng: random.Random, seen: Counter[str]
) -> None:
    """Stream a group of sessions; the stream breaks now and then and a new one goes on."""
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        stub = tidegate_pb2_grpc.TidegateStub(channel)
        while not all(walk.done for walk in group):
            call = stub.StepStream()
            lanes = [
                pb.LaneOpen(lane=k, session_id=walk.name, create=True)
                for k, walk in enumerate(group)
            ]
            await call.write(pb.StepBatch(id=0, model="small", opens=lanes))
            opened = await call.read()
            assert isinstance(opened, pb.StepBatchReply)
            assert not any(lane.HasField("error") for lane in opened.opened)
            await exchange(call, group, rng, seen)
            call.cancel()


async def exchange(
    call: grpc.aio.StreamStreamCall[pb.StepBatch, pb.StepBatchReply],
    group: list[Walk],
    rng: random.Random,
    seen: Counter[str],
) -> None:
    """Messages and replies until all are done, or until the stream is to break."""
    for number in range(1, rng.randint(20, 40)):
        pending = [k for k, walk in enumerate(group) if not walk.done]
        if not pending:
            return
        lanes = rng.sample(pending, rng.randint(1, len(pending)))
        sizes = [group[k].next_chunk(rng) for k in lanes]
        features = [group[k].features[group[k].at :][:n] for k, n in zip(lanes, sizes, strict=True)]
        bad = {row for row in range(len(lanes)) if rng.random() < 0.02}
        for row in bad:
            features[row] = np.full_like(features[row], np.nan)
        firsts = [group[k].at for k in lanes]
        await call.write(batch(number, lanes, np.concatenate(features), firsts, sizes))
        if rng.random() < 0.03:
            seen["broken streams"] += 1
            return  # unanswered: the next stream sends these steps again
        reply = await call.read()
        assert isinstance(reply, pb.StepBatchReply)
        assert reply.id == number
        assert reasons(reply) == dict.fromkeys(bad, "BAD_INPUT")
        seen["nan rows"] += len(bad)
        seen["remembered rows"] += list(reply.status).count(1)
        give(reply, [(group[k], n) for k, n in zip(lanes, sizes, strict=True)], bad)


def give(reply: pb.StepBatchReply, rows: list[tuple[Walk, int]], bad: set[int]) -> None:
    values = np.frombuffer(reply.outputs, "<f4").reshape(-1, 3)
    start = 0
    for row, (walk, size) in enumerate(rows):
        if row not in bad:
            walk.take(values[start : start + size])
            start += size
    assert start == len(values)


async def walk_all(address: str, unary: list[Walk], streamed: list[Walk]) -> Counter[str]:
    rng, seen = random.Random(5), Counter[str]()
    groups = [streamed[k::STREAMS] for k in range(STREAMS)]
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        stub = tidegate_pb2_grpc.TidegateStub(channel)
        async with asyncio.TaskGroup() as tasks:
            for walk in unary:
                tasks.create_task(walk_by_calls(stub, walk, random.Random(rng.random()), seen))
            for group in groups:
                own = random.Random(rng.random())
                tasks.create_task(walk_by_streams(address, group, own, seen))
    return seen


@pytest.mark.parametrize(
    ("transport", "code"), [(NATIVE, ""), (AIO, ""), (NATIVE, CUDA)], indirect=["transport"],
    ids=["cpu", "cpu-aio", "cuda-double"],
)  # fmt: skip
def test_every_reply_of_a_thousand_sessions_equals_its_own_numpy_lstm(
    transport: str, small: SmallModel, code: str
) -> None:
    """On the CPU, and as on CUDA: captured, padded, warmed up, by one thread, a run asked for while
    another is under way. A quarter as many over grpc.aio, which is as much slower."""
    rng, few = random.Random(4), 4 if transport == AIO else 1
    unary, streamed = walks("unary", UNARY // few, rng), walks("streamed", STREAMED // few, rng)
    with running_server(small.repository, code) as server:
        assert f"device={'cuda:0' if code else 'cpu'} " in server.log()
        seen = asyncio.run(walk_all(server.address, unary, streamed))
        total = sum(len(walk.features) for walk in unary + streamed)
        assert server.metric("tidegate_steps_total") == total, "a step was lost or applied twice"
        assert server.metric("tidegate_sessions_live") == len(unary + streamed)
        assert (server.metric("tidegate_runs_ahead_total") > 0) == bool(code)
    reference = NumpyNetwork(small.weights)
    for walk in unary + streamed:
        expected, _ = reference.run(walk.features, reference.initial())
        np.testing.assert_allclose(np.concatenate(walk.answers), expected, atol=1e-5)
    disturbances = ("cancel", "deadline", "nan", "repeated", "nan rows", "broken streams")
    assert all(seen[name] > 0 for name in disturbances), seen
