"""Sessions that go to another version while they are stepped: none doubled, none lost."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.server.serving.operating import (
    Floats,
    Operated,
    assert_close,
    eventually,
    observations,
    operated,
)
from tests.server.wire.wire import batch, failing, reasons, row_errors
from tidegate.v1 import admin_pb2
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DETAIL_KEY
from training.bundle import random_bundle
from training.network import random_network
from training.reference import NumpyNetwork

INPUTS = admin_pb2.MIGRATE_BY_INPUTS


def went_by_state(running: Operated, xs: Floats, at: int) -> Floats:
    """What a session answers that steps on version 1 up to step `at`, then on version 2."""
    first, second = NumpyNetwork(running.weights[1]), NumpyNetwork(running.weights[2])
    before, state = first.run(xs[:at], first.initial())
    after, _ = second.run(xs[at:], state)
    return np.concatenate([before, after]).astype(np.float32)


def went_by_inputs(running: Operated, xs: Floats, at: int, kept: int) -> Floats:
    """The same where version 2 sees the last `kept` inputs before `at`, from its initial state."""
    known = min(at, kept)
    after = running.expected(2, xs[at - known :])[known:]
    return np.concatenate([running.expected(1, xs)[:at], after])


def test_by_state_a_session_goes_on_where_it_stood(tmp_path: Path) -> None:
    xs = observations(1, 20)
    with operated(tmp_path, 1, 2) as running:
        before = running.open("s", version=1)
        running.step("s", 0, xs[:12])
        reply = running.migrate("s", "nobody")
        assert list(reply.migrated) == ["s"]
        assert [each.session_id for each in reply.refused] == ["nobody"]
        assert reply.refused[0].error.reason == pb.REASON_UNKNOWN_SESSION
        after = running.stub.Get(pb.GetRequest(model="small", session_id="s"))
        assert (after.version, after.steps, after.opened_at) == (2, 12, before.opened_at)
        wanted = went_by_state(running, xs, 12)
        again = running.step("s", 8, xs[8:12])  # a retry is answered as it was
        assert_close(again, wanted[8:12])
        assert_close(running.step("s", 12, xs[12:]), wanted[12:])
        with failing("MOVED") as seen:
            running.step("s", 12, xs[12:], version=1)
        assert "went to version 2" in seen[0].detail.message
        assert running.server.metric("tidegate_sessions_migrated_total", version="1") == 1
        assert running.server.metric("tidegate_sessions_live", version="1") == 0


def test_a_stream_s_lane_hears_where_its_session_went(tmp_path: Path) -> None:
    xs = observations(2, 3)
    with operated(tmp_path, 1, 2) as running:
        messages: queue.Queue[pb.StepBatch | None] = queue.Queue()
        replies = running.stub.StepStream(iter(messages.get, None))
        opens = [pb.LaneOpen(lane=0, session_id="s", create=True)]
        messages.put(batch(0, [0], xs[:1], [0], opens=opens, version=1))
        assert next(replies).status == b"\0"
        running.migrate("s")
        messages.put(batch(1, [0], xs[1:2], [1]))
        reply = next(replies)
        assert reasons(reply) == {0: "MOVED"}
        assert "version 2" in row_errors(reply)[0].message
        messages.put(None)
        assert_close(running.step("s", 1, xs[1:]), went_by_state(running, xs, 1)[1:])


@pytest.mark.parametrize("by", [admin_pb2.MIGRATE_BY_STATE, INPUTS])
@pytest.mark.parametrize("resident", [0, 4])
def test_under_steps_every_step_is_answered_once_by_one_version(
    tmp_path: Path, by: int, resident: int
) -> None:
    """Eight callers step one session each and retry what is refused as retryable."""
    count, kept = 120, 16
    with operated(tmp_path, 1, 2, kept_inputs=kept, max_resident=resident) as running:
        names = [f"s{k}" for k in range(8)]
        xs = {name: observations(k, count) for k, name in enumerate(names)}
        got: dict[str, list[Floats]] = {name: [] for name in names}
        for name in names:
            running.open(name, version=1)
        threads = [
            threading.Thread(target=stepped, args=(running, name, xs[name], got[name]))
            for name in names
        ]
        for thread in threads:
            thread.start()
        while min(map(len, got.values())) < 20:
            time.sleep(0.01)
        left = set(names)
        while left:  # a session that moved on too fast is asked for again
            left -= set(running.migrate(*sorted(left), by=by).migrated)
        went = min(map(len, got.values()))
        assert went < count, "the migration came after the steps"
        for thread in threads:
            thread.join(60)
        for name in names:
            outputs = np.concatenate(got[name])
            assert len(outputs) == count
            first = running.expected(1, xs[name])
            at = int(np.flatnonzero(np.abs(outputs - first).max(axis=1) > 1e-5)[0])
            assert 0 < at < count
            assert_close_to_one(outputs, answers(running, xs[name], at, by, kept))
            info = running.stub.Get(pb.GetRequest(model="small", session_id=name))
            assert (info.version, info.steps) == (2, count)


@pytest.mark.parametrize("by", [admin_pb2.MIGRATE_BY_STATE, INPUTS])
def test_sessions_whose_state_is_in_the_store_alone_go_as_well(tmp_path: Path, by: int) -> None:
    names, xs = [f"s{k}" for k in range(12)], observations(1, 6)
    flags: dict[str, Any] = {"max_resident": 4, "checkpoint_interval": 0.05, "kept_inputs": 16}
    with operated(tmp_path, 1, 2, **flags) as running:
        for name in names:
            running.open(name, version=1)
            running.step(name, 0, xs[:5])
        for name in names:
            eventually(
                lambda name=name: running.open(name, version=1).durable_step == 5  # type: ignore[misc]
            )
        assert len(running.migrate(by=by).migrated) == len(names)
        wanted = went_by_state(running, xs, 5)
        if by == INPUTS:
            wanted = went_by_inputs(running, xs, 5, 5)
        for name in names:
            assert_close(running.step(name, 5, xs[5:]), wanted[5:])


def stepped(running: Operated, name: str, xs: Floats, got: list[Floats]) -> None:
    """Step a session through all of `xs`, whatever version has it."""
    while len(got) < len(xs):
        at = len(got)
        try:
            got.append(running.step(name, at, xs[at : at + 1]))
        except grpc.RpcError as error:
            metadata: Any = error.trailing_metadata()
            detail = dict(metadata)[DETAIL_KEY]
            assert pb.ErrorDetail.FromString(detail).reason == pb.REASON_MOVED


def answers(running: Operated, xs: Floats, at: int, by: int, kept: int) -> list[Floats]:
    """What a session may answer that went at step `at`. By inputs, those come to the kept ones that
    were stepped while a copy of it was stepped through these."""
    if by != INPUTS:
        return [went_by_state(running, xs, at)]
    return [went_by_inputs(running, xs, at, longer) for longer in range(kept, at + 1)]


def assert_close_to_one(got: Floats, wanted: list[Floats]) -> None:
    assert min(float(np.abs(got - each).max()) for each in wanted) < 1e-5


def test_all_sessions_go_by_state_or_by_inputs(tmp_path: Path) -> None:
    xs = observations(3, 90)
    with operated(tmp_path, 1, 2, kept_inputs=70, max_resident=16) as running:
        for k in range(80):
            running.open(f"s{k:02}", version=1)
            running.step(f"s{k:02}", 0, xs[: k % 5]) if k % 5 else None
        running.open("long", version=1)
        running.step("long", 0, xs[:60])
        running.step("long", 60, xs[60:80])
        reply = running.migrate(by=INPUTS)
        assert len(reply.migrated) == 81
        assert not reply.refused
        for k in (0, 1, 33, 79):
            wanted = went_by_inputs(running, xs, k % 5, 70)[k % 5 :]
            assert_close(running.step(f"s{k:02}", k % 5, xs[k % 5 : 60]), wanted[: 60 - k % 5])
        assert_close(running.step("long", 80, xs[80:]), went_by_inputs(running, xs, 80, 70)[80:])


def test_inputs_that_the_server_did_not_see_are_not_made_up(tmp_path: Path) -> None:
    """A session that came as a snapshot goes by its state, not by inputs."""
    xs = observations(4, 10)
    with operated(tmp_path, 1, 2, kept_inputs=8) as running:
        running.open("a", version=1)
        running.step("a", 0, xs[:6])
        snapshot = running.stub.Export(pb.ExportRequest(model="small", session_id="a"))
        running.stub.Import(pb.ImportRequest(snapshot=snapshot, session_id="b"))
        running.stub.Import(pb.ImportRequest(snapshot=snapshot, session_id="a", replace=True))
        reply = running.migrate("a", "b", by=INPUTS)
        assert not reply.migrated
        assert {each.error.reason for each in reply.refused} == {pb.REASON_BAD_SNAPSHOT}
        assert "only 0 of the session's latest inputs" in reply.refused[0].error.message
        assert running.stub.Get(pb.GetRequest(model="small", session_id="a")).version == 1
        assert list(running.migrate("a").migrated) == ["a"]
        assert_close(running.step("a", 6, xs[6:]), went_by_state(running, xs, 6)[6:])


def test_a_session_that_has_no_room_stays_as_it_was(tmp_path: Path) -> None:
    xs = observations(5, 6)
    with operated(tmp_path, 1, 2, max_sessions=2) as running:
        for name in ("a", "b"):
            running.open(name, version=1)
            running.step(name, 0, xs[:3])
        running.open("a", version=2)
        reply = running.migrate()
        assert list(reply.migrated) == ["b"]
        assert [each.error.reason for each in reply.refused] == [pb.REASON_SESSION_EXISTS]
        assert_close(running.step("a", 3, xs[3:], version=1), running.expected(1, xs)[3:])
        running.open("c", version=1)
        (refused,) = running.migrate("c").refused
        assert refused.error.reason == pb.REASON_SESSIONS_FULL


def test_versions_of_other_widths_or_states_are_refused(tmp_path: Path) -> None:
    with operated(tmp_path, 1, kept_inputs=4) as running:
        shapes = {2: (5, 12, 2, 4), 3: (5, 9, 2, 3)}  # inputs, units, layers, outputs
        for version, shape in shapes.items():
            weights = random_network(*shape, seed=1, softmax=False)
            random_bundle(running.repository / "small" / str(version), weights)
            running.admin.Load(admin_pb2.LoadRequest(model="small", version=version))
        running.open("s", version=1)
        with failing("BAD_SNAPSHOT") as seen:
            running.migrate("s")
        assert "3 output values, version 2 4" in seen[0].detail.message
        request = admin_pb2.MigrateRequest(
            model="small", from_version=1, to_version=3, all=True, by=admin_pb2.MIGRATE_BY_STATE
        )
        with failing("BAD_SNAPSHOT") as seen:
            running.admin.Migrate(request)
        assert "h0 float32[12]" in seen[0].detail.message
        request.by = INPUTS
        assert list(running.admin.Migrate(request).migrated) == ["s"]


def test_what_is_no_request_is_told_so(tmp_path: Path) -> None:
    with operated(tmp_path, 1, 2) as running:
        ask = running.admin.Migrate
        good = {"model": "small", "from_version": 1, "to_version": 2, "all": True, "by": 1}
        for wrong in ({"to_version": 1}, {"all": False}, {"by": 0}, {"from_version": 0}):
            with failing("BAD_INPUT"):
                ask(admin_pb2.MigrateRequest(**good | wrong))  # type: ignore[arg-type]
        with failing("UNKNOWN_VERSION"):
            ask(admin_pb2.MigrateRequest(**good | {"to_version": 9}))  # type: ignore[arg-type]
        with failing("BAD_SNAPSHOT") as seen:
            ask(admin_pb2.MigrateRequest(**good | {"by": 2}))  # type: ignore[arg-type]
        assert "kept_inputs" in seen[0].detail.message
