"""The client in Node.js, run as its README says, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.client.durable import DurableServer, outputs
from tests.client.fake import FakeServer, applied, detail, refused
from tests.client.proxy import Proxy
from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, await_ready, running_server
from tests.harness import start as serve
from tests.server.wire.wire import WIDTH, Floats, observations
from tidegate.v1 import tidegate_pb2 as pb
from training.reference import NumpyNetwork

FOLDER = ROOT / "examples/node"
TOOLS = Path(sys.executable).parent


def tool(*words: object) -> list[str]:
    """A command of the Node.js that is installed beside Python."""
    name, *rest = map(str, words)
    return [str(TOOLS / name), *rest]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    lock, done = FOLDER / "package-lock.json", FOLDER / "node_modules/.package-lock.json"
    if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
        environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
        subprocess.run(
            tool("npm", "ci", "--no-audit", "--no-fund"),
            cwd=FOLDER, env=environment, check=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def played(tmp_path: Path) -> Iterator[tuple[Path, list[Floats]]]:
    """A CSV file of sessions of several lengths, and their features."""
    sessions = [observations(seed, 20 + 7 * seed) for seed in range(12)]
    lines = [",".join(["session", *(f"x{k}" for k in range(WIDTH))])]
    longest = max(map(len, sessions))
    for step in range(longest):  # interleaved, as a log of many devices is
        for at, xs in enumerate(sessions):
            if step < len(xs):
                lines.append(",".join([f"s{at}", *(repr(float(x)) for x in xs[step])]))
    file = tmp_path / "sessions.csv"
    file.write_text("\n".join(lines) + "\n")
    yield file, sessions


def start(address: str, file: Path) -> subprocess.Popen[str]:
    words = tool("node", FOLDER / "main.js", address, "small", file)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_played(
    process: subprocess.Popen[str], sessions: list[Floats], small: SmallModel
) -> None:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    told = {line["session"]: line["outputs"] for line in map(json.loads, output.splitlines())}
    assert len(told) == len(sessions)
    lstm = NumpyNetwork(small.weights)
    for at, xs in enumerate(sessions):
        expected = lstm.run(xs, lstm.initial())[0]
        np.testing.assert_allclose(np.array(told[f"s{at}"]), expected, rtol=0, atol=1e-5)


def test_sessions_streamed_from_node_are_what_the_equations_say(
    small: SmallModel, played: tuple[Path, list[Floats]]
) -> None:
    file, sessions = played
    with running_server(small.repository) as server:
        assert_played(start(server.address, file), sessions, small)
        steps = server.metric("tidegate_steps_total")
        runs = server.metric("tidegate_batch_rows_count")
    assert steps == sum(map(len, sessions))
    assert steps / runs > 2  # what is asked for at the same time travels together


def cut_while_it_plays(server: RunningServer, proxy: Proxy, steps: int) -> None:
    """Lose the reply to some message, three times on the way."""
    for part in (4, 2, 1.5):
        deadline = time.monotonic() + 30
        while server.metric("tidegate_steps_total") < steps / part and time.monotonic() < deadline:
            time.sleep(0.002)
        proxy.cut_at_next_reply = True


def test_a_connection_cut_midway_goes_unnoticed_and_every_step_counts_once(
    small: SmallModel, played: tuple[Path, list[Floats]]
) -> None:
    file, sessions = played
    steps = sum(map(len, sessions))
    with running_server(small.repository) as server, Proxy(server.address) as proxy:
        process = start(proxy.address, file)
        cutting = threading.Thread(target=cut_while_it_plays, args=(server, proxy, steps))
        cutting.start()
        assert_played(process, sessions, small)
        cutting.join()
        assert server.metric("tidegate_replies_remembered_total") > 0
        assert server.metric("tidegate_steps_total") == steps


def test_what_a_killed_server_had_not_stored_is_applied_again_unseen(
    small: SmallModel, played: tuple[Path, list[Floats]], tmp_path: Path
) -> None:
    file, sessions = played
    steps = sum(map(len, sessions))
    flags = ["--data-folder", str(tmp_path / "data"), "--checkpoint-interval", "60"]
    first, log = serve(small.repository, *flags)
    server = await_ready(first, log)
    port = server.address.rpartition(":")[2]
    process = start(server.address, file)
    deadline = time.monotonic() + 30
    while server.metric("tidegate_steps_total") < steps / 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    before = server.metric("tidegate_steps_total")
    first.kill()
    first.wait()
    second, log = serve(small.repository, *flags, "--port", port)
    try:
        server = await_ready(second, log)
        assert_played(process, sessions, small)
        assert server.metric("tidegate_sessions_taken_up_total") > 0
        assert server.metric("tidegate_steps_total") > steps - before  # more than was left to do
    finally:
        second.kill()
        second.wait()


def test_refusals_are_told_by_name(small: SmallModel, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("session,x0,x1,x2,x3,x4\na,1,2,oops,4,5\n")
    with running_server(small.repository) as server:
        process = start(server.address, file)
        _, errors = process.communicate(timeout=30)
        assert process.returncode != 0
        assert "feature 'x2' of step 0" in errors
        process = subprocess.Popen(
            tool("node", FOLDER / "main.js", server.address, "other", file),
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.communicate(timeout=30)[1] == "no model other; served: small\n"
        assert process.returncode == 1


ALIKE = """
const { StepStream, connect, disconnect } = await import(process.argv[2]);
const stub = connect(process.argv[1]);
const model = { name: 'fake', version: 1, features: [{}, {}], outputs: [{ size: 1 }] };
const stream = new StepStream(stub, model);
const steps = ['a', 'b', 'c', 'd'].map((id) => stream.session(id).step([1, 2]));
const told = await Promise.allSettled(steps);
console.log(JSON.stringify(told.map(({ reason }) => reason.reason)));
stream.close();
disconnect(stub);
"""


def test_rows_that_failed_alike_are_each_told() -> None:
    async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
        return refused(batch, detail(pb.REASON_RUN_FAILED)) if batch.lanes else applied(batch)

    async def play() -> bytes:
        async with FakeServer() as server:  # type: ignore[abstract]
            server.answer = answer
            words = tool("node", "--input-type=module", "-e", ALIKE, server.address)
            process = await asyncio.create_subprocess_exec(
                *words, (FOLDER / "tidegate.js").as_uri(), stdout=subprocess.PIPE
            )
            return (await asyncio.wait_for(process.communicate(), 30))[0]

    assert json.loads(asyncio.run(play())) == ["REASON_RUN_FAILED"] * 4


STEADY = """
const { StepStream, connect, disconnect } = await import(process.argv[2]);
const stub = connect(process.argv[1]);
const model = { name: 'fake', version: 1, features: [{}, {}], outputs: [{ size: 1 }] };
const stream = new StepStream(stub, model);
const play = async (id) => {
  const session = stream.session(id), outputs = [];
  for (let at = 0; at < 40; at++) outputs.push((await session.step([at, 1 / (at + 1)]))[0]);
  return outputs;
};
console.log(JSON.stringify(await Promise.all(['a', 'b', 'c'].map(play))));
stream.close();
disconnect(stub);
"""


async def played_by_node(server: DurableServer, script: str) -> bytes:
    words = tool("node", "--input-type=module", "-e", script, server.address)
    process = await asyncio.create_subprocess_exec(
        *words, (FOLDER / "tidegate.js").as_uri(), stdout=subprocess.PIPE
    )
    return (await asyncio.wait_for(process.communicate(), 60))[0]


@pytest.mark.parametrize("lag", [0, 4, 100])
def test_what_crashes_take_back_is_applied_again_and_every_step_counts_once(lag: int) -> None:
    async def play() -> None:
        async with DurableServer(lag) as server:  # type: ignore[abstract]
            server.faults = {
                3: "moved", 6: "down", 10: "before", 13: "after", 20: "after", 23: "before",
                24: "after", 33: "moved", 40: "after",
            }  # fmt: skip
            starting = detail(pb.REASON_STARTING, retry_after_ms=5)
            server.refusals = [(grpc.StatusCode.UNAVAILABLE, starting)] * 10
            told = json.loads(await played_by_node(server, STEADY))
            xs = [np.array([at, 1 / (at + 1)], "<f4").tobytes() for at in range(40)]
            for life in server.lives.values():
                assert life.inputs == xs
            np.testing.assert_array_equal(np.array(told, "<f4"), [outputs(xs)] * 3)

    asyncio.run(play())


def test_a_session_begun_anew_by_somebody_else_is_not_filled_with_old_steps() -> None:
    async def play() -> None:
        async with DurableServer(100) as server:  # type: ignore[abstract]
            server.faults = {20: "before"}
            crash = server.crash

            def begin_anew() -> None:
                crash()
                server.begin("a")

            server.crash = begin_anew  # type: ignore[method-assign]
            script = STEADY.replace("Promise.all(['a', 'b', 'c'].map(play))", REASON)
            assert json.loads(await played_by_node(server, script)) == "REASON_STEP_GAP"
            assert server.lives["a"].count == 0

    asyncio.run(play())


REASON = "play('a').catch(({ reason }) => reason)"
