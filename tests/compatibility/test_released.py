"""Today's server over what each release wrote: bundle, stores, snapshot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.bundle import manifest
from tests.compatibility.release import AHEAD, CLOSED, RELEASED, STEPS, dumped, restore, write
from tests.durability.service import on_redis, on_sqlite, serving
from tests.harness import RunningServer
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import connected, outputs, step_request
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub

OLD = ("--session-ttl", str(9 * 365 * 86_400))
"""What was released once has not expired."""
Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=sorted(RELEASED.iterdir()), ids=lambda each: each.name)
def released(request: pytest.FixtureRequest) -> Path:
    """A release's folder."""
    folder: Path = request.param
    return folder


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def server(
    request: pytest.FixtureRequest, released: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Today's server over a release's bundle and store."""
    folder, redis = tmp_path_factory.mktemp("released"), None
    if request.param == "sqlite":
        shutil.copy(released / "sessions.db", folder)
        where = on_sqlite(folder)
    else:
        redis = RedisServer()
        restore(redis, json.loads((released / "redis.json").read_text()))
        where = on_redis(redis.url)
    try:
        with serving(released / "models", *where, *OLD) as service:
            yield service.running
    finally:
        if redis is not None:
            redis.stop()


@pytest.fixture
def stub(server: RunningServer) -> Iterator[TidegateStub]:
    with connected(server) as found:
        yield found


@pytest.fixture(scope="module")
def answers(released: Path) -> Answers:
    """Inputs and answers of each session."""
    return dict(np.load(released / "answers.npz"))


def go_on(stub: TidegateStub, session_id: str, name: str, answers: Answers) -> None:
    """Take the steps of `name` that come next, with a session that is where that one was."""
    ahead = slice(STEPS[name], STEPS[name] + AHEAD)
    xs, wanted = answers[f"{name}.inputs"][ahead], answers[f"{name}.answers"][ahead]
    reply = stub.Step(step_request(session_id, STEPS[name], xs))
    assert not reply.remembered
    np.testing.assert_allclose(outputs(reply), wanted, rtol=0, atol=1e-5)


def retry(stub: TidegateStub, session_id: str, name: str, answers: Answers) -> None:
    """Send the last step again, which must be answered from memory."""
    last = STEPS[name] - 1
    x, wanted = answers[f"{name}.inputs"][last], answers[f"{name}.answers"][last]
    reply = stub.Step(step_request(session_id, last, x))
    assert reply.remembered
    np.testing.assert_allclose(outputs(reply)[0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_a_session_that_a_release_stored_goes_on(
    stub: TidegateStub, name: str, answers: Answers
) -> None:
    opened = stub.Open(pb.OpenRequest(model="small", session_id=name))
    assert not opened.created
    assert opened.session.steps == opened.session.durable_step == STEPS[name]
    if STEPS[name]:
        retry(stub, name, name, answers)
    go_on(stub, name, name, answers)


def test_a_session_that_was_closed_begins_anew(stub: TidegateStub) -> None:
    assert stub.Open(pb.OpenRequest(model="small", session_id=CLOSED)).created


def test_a_snapshot_of_a_release_goes_on(
    stub: TidegateStub, released: Path, answers: Answers
) -> None:
    snapshot = pb.Snapshot.FromString((released / "snapshot").read_bytes())
    made = stub.Import(pb.ImportRequest(snapshot=snapshot, session_id="imported")).session
    assert made.steps == STEPS["b"]
    retry(stub, "imported", "b", answers)
    go_on(stub, "imported", "b", answers)


def test_a_bundle_is_the_same_bundle_to_every_version(released: Path) -> None:
    """A record and a snapshot name their bundle by this digest: if it were taken otherwise, every
    session at rest would be another bundle's."""
    text = (released / "models" / "small" / "1" / "model.json").read_bytes()
    snapshot = pb.Snapshot.FromString((released / "snapshot").read_bytes())
    assert manifest.parse(text, "small/1").digest == snapshot.bundle_digest


SINCE = {"models/small/1/single.cuda.onnx"}
"""What is written since the last release, and is no part of what sessions at rest name."""


def test_what_the_command_writes_is_what_is_read(tmp_path: Path) -> None:
    write(tmp_path / "now")
    now, folder = sorted(RELEASED.iterdir())[-1], tmp_path / "now"
    written = {f.relative_to(folder).as_posix() for f in folder.rglob("*")}
    assert {f.relative_to(now).as_posix() for f in now.rglob("*")} == written - SINCE
    redis = RedisServer()
    try:
        hashes = json.loads((folder / "redis.json").read_text())
        assert {key: set(each) for key, each in hashes.items()} == {
            key: set(each) for key, each in json.loads((now / "redis.json").read_text()).items()
        }
        restore(redis, hashes)
        assert dumped(redis) == hashes
    finally:
        redis.stop()
