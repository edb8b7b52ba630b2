"""What operators ask of a server itself: how it stands, what it logs, and to end."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.cli.running import tidegate
from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.access.doors import as_caller, bearer, entry, guarded
from tests.server.wire.session_rpcs import begin
from tests.server.wire.wire import failing, observations
from tidegate.v1 import admin_pb2, admin_pb2_grpc
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub

X = observations(4, 3)


def test_a_server_tells_its_settings_models_and_tenants_and_no_secret(
    small: SmallModel, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(small.repository)
    said = entry("acme", tenant="acme") + entry("ops")
    url = "redis://:hush@127.0.0.1:1/0"  # not used by this store
    with (
        guarded(
            tmp_path / "models", tmp_path / "access.toml", said, redis_url=url, max_sessions=77
        ) as server,
        as_caller(server, "acme") as acme,
        as_caller(server, "ops") as ops,
        grpc.insecure_channel(server.address) as channel,
    ):
        for k in range(3):
            begin(acme, f"a{k}", X[:1])
        begin(ops, "mine", X[:1])
        admin = admin_pb2_grpc.AdminStub(channel)
        told = admin.Describe(admin_pb2.DescribeRequest(), metadata=bearer("ops"))
        assert told.settings["max_sessions"] == "77"
        assert "hush" not in str(told)
        assert [(m.model, m.version, m.newest, m.sessions) for m in told.models] == [
            ("small", 1, True, 4)
        ]
        assert [(t.tenant, t.sessions) for t in told.tenants] == [("acme", 3), ("", 1)]
        assert not told.draining
        assert told.started_at.seconds > 1e9
        token = tmp_path / "token"
        token.write_text("secret-ops")
        where = ("--address", server.address, "--token-file", token)
        shown = tidegate("server", "show", *where)
        assert "model    small/1: 4 sessions, 0 steps queued, newest" in shown.stdout
        assert "tenant   acme: 3 sessions" in shown.stdout
        assert "setting  max_sessions = 77" in shown.stdout
        assert "hush" not in shown.stdout


def test_the_log_level_changes_while_it_serves(server: RunningServer) -> None:
    where = ("--address", server.address)
    done = tidegate("server", "log-level", "debug", *where)
    assert done.stdout == "debug; it was info\n"
    assert "level debug" in tidegate("server", "show", *where).stdout
    assert tidegate("server", "log-level", "info", *where).stdout == "info; it was debug\n"
    with grpc.insecure_channel(server.address) as channel, failing("BAD_INPUT") as seen:
        request = admin_pb2.SetLogLevelRequest(level="loud")
        admin_pb2_grpc.AdminStub(channel).SetLogLevel(request)
    assert seen[0].detail.field == "level"


@pytest.mark.parametrize("transport", ["native", "aio"])
def test_an_operator_s_drain_stores_everything_and_ends_well(
    small: SmallModel, tmp_path: Path, transport: str
) -> None:
    folder = tmp_path / "data"
    with running_server(
        small.repository, data_folder=folder, transport=transport, checkpoint_interval=60
    ) as server:
        with grpc.insecure_channel(server.address) as channel:
            begin(TidegateStub(channel), "kept", X)
            assert tidegate("server", "drain", "--address", server.address).returncode == 0
            assert server.process.wait(30) == 0
        assert "an operator has the server drain" in server.log()
    with (
        running_server(small.repository, data_folder=folder) as again,
        grpc.insecure_channel(again.address) as channel,
    ):
        found = TidegateStub(channel).Get(pb.GetRequest(model="small", session_id="kept"))
        assert found.steps == len(X)
