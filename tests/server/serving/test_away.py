"""Sessions that leave memory for the store between any two moments: who reads them has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.errors import StateAway, StoreDown
from server.serving.migration import By, migrate
from tests.server.core.parts import make_bundle
from tests.server.core.test_keeping import keeping, name, serving, step, wait_durable
from tests.server.serving.operating import Operated, observations, operated
from tidegate.v1 import tidegate_pb2 as pb

IDS = [f"s{k:02}" for k in range(24)]
XS = observations(3, 1000)


def go_on(running: Operated, ids: list[str], over: threading.Event) -> None:
    for at in range(1, len(XS)):
        for each in ids:
            if over.is_set():
                return
            step_wherever(running, each, at)


def step_wherever(running: Operated, session_id: str, at: int) -> None:
    """Steps; again where the session went to another version just then."""
    try:
        running.step(session_id, at, XS[at : at + 1])
    except grpc.RpcError as error:
        assert "went to version 2" in str(error)
        running.step(session_id, at, XS[at : at + 1])


@contextmanager
def crowded(folder: Path, *versions: int) -> Iterator[Operated]:
    """A server whose sessions, six for each slot, are stepped and stored all the time."""
    over = threading.Event()
    crowd: Any = {"max_resident": 4, "max_sessions": 100, "checkpoint_interval": 0.05}
    with operated(folder, *versions, **crowd) as running:
        threads = [
            threading.Thread(target=go_on, args=(running, IDS[k::3], over)) for k in range(3)
        ]
        for each in IDS:
            running.open(each, version=1)
            running.step(each, 0, XS[:1])
        for thread in threads:
            thread.start()
        try:
            yield running
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_who_reads_a_session_has_it_however_often_it_leaves_memory(tmp_path: Path) -> None:
    with crowded(tmp_path, 1) as running:
        stub = running.stub
        for each in 2 * IDS:
            named: Any = {"model": "small", "session_id": each}
            assert stub.Peek(pb.PeekRequest(**named)).session.steps > 0
            assert stub.Export(pb.ExportRequest(**named)).steps > 0
            ahead = pb.ForecastRequest(**named, steps=1, features=XS[0].tolist())
            assert len(stub.Forecast(ahead).outputs) == 3
            stub.Fork(pb.ForkRequest(**named, new_session_id="copy"))
            stub.Close(pb.CloseRequest(model="small", session_id="copy"))


def test_all_sessions_migrate_however_often_they_leave_memory(tmp_path: Path) -> None:
    with crowded(tmp_path, 1, 2) as running:
        reply = running.migrate()
        assert sorted(reply.migrated) == IDS
        assert not reply.refused


def test_a_session_that_is_away_is_read_once_it_was_fetched(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "models")
    with (
        keeping(tmp_path) as (store, kept),
        serving(bundle, tmp_path, kept, max_resident=1) as (model, caller),
    ):
        for each in ("a", "b"):
            name(model, each)
            step(caller, each, 0, XS[:3, :5])
            wait_durable(model, each, 3)
        with pytest.raises(StateAway):
            model.operations.export("a").result(20)
        model.fetch("a").result(20)
        assert model.operations.export("a").result(20).steps == 3
        store.down = True
        with pytest.raises(StoreDown):
            model.fetch("b").result(20)
        done = migrate(model, model, ["b"], By.STATE)
        assert not done.went
        assert type(done.stay["b"]) is StoreDown
