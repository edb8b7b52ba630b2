"""Quotas: what a tenant may use of a server, refused with a delay after which there is more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.policy import Policy, Quota
from server.access.tenants import Tenants
from server.errors import QuotaReached
from server.metrics import Metrics
from tests.conftest import SmallModel
from tests.harness import RunningServer
from tests.server.access.doors import as_caller, entry, guarded
from tests.server.wire.session_rpcs import begin, exported, taken
from tests.server.wire.wire import batch, failing, observations
from tidegate.v1 import tidegate_pb2 as pb

SAID = (
    entry("few", tenant="few") + entry("slow", tenant="slow") + entry("small", tenant="small")
    + entry("free", tenant="free")
    + "[tenants.few]\nsessions = 3\n[tenants.slow]\nsteps_per_second = 5\n"
    + "[tenants.small]\nbytes_per_second = 3000\n"
)  # fmt: skip
X = observations(9, 64)


@pytest.fixture(scope="module", params=["native", "aio"])
def server(
    request: pytest.FixtureRequest, small: SmallModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with a tenant for each quota, and one without any."""
    file: Path = tmp_path_factory.mktemp("access") / "access.toml"
    with guarded(small.repository, file, SAID, transport=request.param) as running:
        yield running


def test_no_more_sessions_than_the_quota_however_they_come(server: RunningServer) -> None:
    with as_caller(server, "few") as few, as_caller(server, "free") as free:
        begin(few, "a", X[:1])
        begin(few, "b", X[:1])
        snapshot = exported(few, "a")
        opens = [pb.LaneOpen(lane=k, session_id=f"lane-{k}", create=True) for k in range(3)]
        (reply,) = few.StepStream(iter([batch(1, [0, 1, 2], X[:3], opens=opens)]))
        assert [each.error.reason for each in reply.opened] == [0, pb.REASON_QUOTA, pb.REASON_QUOTA]
        assert reply.opened[1].error.retry_after_ms > 0
        for refused in (
            lambda: begin(few, "c", X[:0]),
            lambda: few.Fork(pb.ForkRequest(model="small", session_id="a", new_session_id="c")),
            lambda: taken(few, snapshot, "c"),
        ):
            with failing("QUOTA"):
                refused()
        many = few.OpenMany(pb.OpenManyRequest(model="small", session_ids=["a", "c", "d"]))
        assert [each.error.reason for each in many.outcomes] == [
            0, pb.REASON_QUOTA, pb.REASON_QUOTA,
        ]  # fmt: skip
        for k in range(9):  # others have room
            begin(free, f"free-{k}", X[:1])
        assert server.metric("tidegate_tenant_sessions", tenant="few") == 3
        assert server.metric("tidegate_quota_reached_total", tenant="few", quota="sessions") >= 7
        few.Close(pb.CloseRequest(model="small", session_id="a"))
        begin(few, "c", X[:1])
        with failing("UNKNOWN_SESSION"):  # what was refused was never made
            few.Get(pb.GetRequest(model="small", session_id="d"))


def test_steps_beyond_the_rate_are_refused_and_nothing_of_them_is_done(
    server: RunningServer,
) -> None:
    with as_caller(server, "slow") as slow:
        begin(slow, "s", X[:5])
        request = pb.StepRequest(model="small", session_id="s", features=X[5].tolist())
        with failing("QUOTA") as seen:
            for _ in range(50):
                slow.Step(request)
        assert seen[0].detail.retry_after_ms > 0
        before = slow.Get(pb.GetRequest(model="small", session_id="s")).steps
        opens = [pb.LaneOpen(lane=0, session_id="s")]
        messages = [batch(k, [0], X[:1], opens=opens) for k in range(40)]
        replies = list(slow.StepStream(iter(messages)))
        refused = [r for r in replies if r.errors]
        assert {r.errors[0].error.reason for r in refused} == {pb.REASON_QUOTA}
        assert len(replies) == 40  # the stream went on
        after = slow.Get(pb.GetRequest(model="small", session_id="s")).steps
        assert after - before == 40 - len(refused)


def test_bytes_beyond_the_rate_are_refused(server: RunningServer) -> None:
    with as_caller(server, "small") as stub:
        ids = [f"{k:0250d}" for k in range(20)]
        with failing("QUOTA"):
            for _ in range(50):
                stub.OpenMany(pb.OpenManyRequest(model="small", session_ids=ids))


class Clock:
    """A clock that moves when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    st.floats(1, 1000),
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 2)), min_size=1, max_size=80),
)
def test_over_any_time_a_tenant_gets_its_rate_and_a_second_s_worth_more(
    rate: float, asked: list[tuple[int, float]]
) -> None:
    clock = Clock()
    quota = Quota(steps_per_second=rate)
    policy = Policy.model_construct(tenants={"t": quota}, others=Quota())
    usage = Tenants(policy, Metrics(), clock).of("t")
    got, largest, start = 0, 0, clock.now
    for steps, pause in asked:
        clock.now += pause
        largest = max(largest, steps)
        try:
            usage.take(1, steps)
            got += steps
        except QuotaReached as error:
            clock.now += (error.retry_after or 0) * 1.001
            usage.take(1, steps)  # by then there is more
            got += steps
    assert got <= rate * (clock.now - start + 1) + largest + 1e-6 * got
