"""Snapshots that do not fit, or that somebody made up: refused by name, and nothing changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server, small_model
from tests.server.transports import NATIVE, over
from tests.server.wire import spoiled
from tests.server.wire.session_rpcs import assert_close, begin, expected, exported, forecast, taken
from tests.server.wire.wire import connected, failing, observations, outputs, step_request
from tidegate.v1 import tidegate_pb2 as pb

pytestmark = over(NATIVE)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoiled.rename_state, r"states \['h7'"),
        (spoiled.poison, "state 'c0' .* not finite"),
        (spoiled.shorten, "state 'h1' has 11 values for"),
        (spoiled.reshape, r"state 'h1' .* float32 \[3, 4\], the model's is float32 \[12\]"),
        (spoiled.halve, "state 'c1' has 24 values for"),
        (spoiled.retype, "unknown type 'bfloat16'"),
        (spoiled.another_format, "format 1; this server takes format 2"),
        (spoiled.another_bundle, "of another bundle that was called 'small' version 1: .* '0000"),
        (spoiled.no_digest, "of another bundle"),
        (spoiled.long_digest, "of another bundle"),
        (spoiled.no_version, "version 0, not of"),
        (spoiled.endless, "9223372036854775808 steps, out of range"),
        (spoiled.forgetful, "remembers 4 of 5 steps"),
        (spoiled.unaligned, "59 bytes"),
        (spoiled.too_few_steps, "remembers 5 of 2 steps"),
        (spoiled.infinite_output, "remembered outputs that are not finite"),
        (spoiled.no_states, "has 0 states, the model has 4"),
        (spoiled.swapped_states, r"states \['c0', 'h0', 'h1', 'c1'\], the model has \['h0'"),
        (spoiled.nothing, "format 0"),
        (spoiled.deep, r"12 values for \[1, 1"),
        (spoiled.endless_and_empty, r"0 values for \[4294967295, 4294967295, 0\]"),
        (spoiled.very_deep, r"12 values for \[1, 1"),
        (spoiled.long_name, r"states \['sss"),
        (spoiled.long_type, "state 'h0' has the unknown type 'sss"),
        (spoiled.long_name_and_type, "state 'sss.* has the unknown type 'sss"),
        (spoiled.long_name_and_odd_bytes, "state 'sss.* has 3 bytes"),
        (spoiled.many_states, "has 5004 states, the model has 4"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    server: RunningServer,
    small: SmallModel,
    spoil: Callable[[pb.Snapshot], None],
    told: str,
    replace: bool,
) -> None:
    """Neither in the place of the live session nor as a new one, and in few words."""
    name, xs = f"{spoil.__name__}-{replace}", observations(8, 6)
    with connected(server) as stub:
        begin(stub, name, xs[:5])
        snapshot = exported(stub, name)
        spoil(snapshot)
        with failing("BAD_SNAPSHOT") as seen:
            taken(stub, snapshot, name if replace else f"{name}-new", replace)
        assert seen[0].status is grpc.StatusCode.FAILED_PRECONDITION
        assert re.search(told, seen[0].detail.message), seen[0].detail.message
        assert len(seen[0].detail.message) < 500
        with failing("UNKNOWN_SESSION"):
            stub.Get(pb.GetRequest(model="small", session_id=f"{name}-new"))
        assert_close(outputs(stub.Step(step_request(name, 5, xs[5:]))), expected(small, xs)[5:])


def test_a_snapshot_of_another_model_or_version_is_refused_by_name(tmp_path: Path) -> None:
    small_model(tmp_path)
    small_model(tmp_path, version=2, seed=9)
    with running_server(tmp_path) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", version=1, session_id="old"))
        snapshot = stub.Export(pb.ExportRequest(model="small", version=1, session_id="old"))
        assert taken(stub, snapshot, "copy").version == 1  # to where it belongs, not to the newest
        snapshot.version = 3
        with failing("UNKNOWN_VERSION") as seen:
            taken(stub, snapshot, "copy-3")
        assert "'small' has no version 3" in seen[0].detail.message
        snapshot.model = "other"
        with failing("UNKNOWN_MODEL") as seen:
            taken(stub, snapshot, "copy-4")
        assert "'other'" in seen[0].detail.message


def test_a_full_server_takes_no_snapshot_in(small: SmallModel) -> None:
    with running_server(small.repository, max_sessions=1) as server, connected(server) as stub:
        begin(stub, "only", observations(9, 3))
        snapshot = exported(stub, "only")
        with failing("SESSIONS_FULL") as seen:
            taken(stub, snapshot, "second")
        assert seen[0].detail.retry_after_ms > 0
        assert server.metric("tidegate_errors_total", reason="sessions_full") == 1


def test_bytes_that_are_no_message_do_no_harm(server: RunningServer) -> None:
    rng = np.random.default_rng(2)
    with grpc.insecure_channel(server.address) as channel, connected(server) as stub:
        raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/tidegate.v1.Tidegate/Import"
        )
        begin(stub, "whole", observations(2, 5))
        packed = pb.ImportRequest(snapshot=exported(stub, "whole"))
        good = np.frombuffer(packed.SerializeToString(), np.uint8)
        codes = set[grpc.StatusCode]()
        for _ in range(150):
            spoiled = good.copy()
            spoiled[rng.integers(0, len(good), 3)] = rng.integers(0, 256, 3)
            with pytest.raises(grpc.RpcError) as caught:  # if not for its bytes, then for its id
                raw(spoiled.tobytes())
                stub.Close(pb.CloseRequest(model="small", session_id="none"))
            codes.add(caught.value.code())
        assert grpc.StatusCode.ALREADY_EXISTS in codes and len(codes) > 2
        assert stub.Get(pb.GetRequest(model="small", session_id="whole")).steps == 5
    assert "failed unexpectedly" not in server.log()
    assert "work between two runs failed" not in server.log()


def test_failed_calls_are_counted_by_code_and_reason(small: SmallModel) -> None:
    with running_server(small.repository) as server, connected(server) as stub:
        begin(stub, "counted", observations(3, 3))
        snapshot = exported(stub, "counted")
        with failing("SESSION_EXISTS"):
            taken(stub, snapshot)
        snapshot.format = 7
        for _ in range(2):
            with failing("BAD_SNAPSHOT"):
                taken(stub, snapshot, "other")
        calls: list[Callable[[], object]] = [
            lambda: stub.Reset(pb.ResetRequest(model="small", session_id="nobody")),
            lambda: stub.Peek(pb.PeekRequest(model="small", session_id="nobody")),
            lambda: stub.Export(pb.ExportRequest(model="small", session_id="nobody")),
            lambda: stub.Fork(pb.ForkRequest(model="small", session_id="nobody")),
            lambda: forecast(stub, "nobody", 1, observations(3, 1)),
        ]
        for call in calls:
            with failing("UNKNOWN_SESSION"):
                call()
        for code, reason, times in (
            ("ALREADY_EXISTS", "session_exists", 1),
            ("FAILED_PRECONDITION", "bad_snapshot", 2),
            ("NOT_FOUND", "unknown_session", 5),
        ):
            labels = {"model": "small", "version": "1", "code": code, "reason": reason}
            assert server.metric("tidegate_errors_total", **labels) == times
