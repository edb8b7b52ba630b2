"""A server on a GPU, as a process, over the stand-ins: it starts, steps and ends there.

Nothing computes, so the probe refuses every model, as it should. To see the rest of the server the
probe, which alone reads numbers, is left out; what is answered then means nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.harness import RunningServer, await_ready, small_model, start
from tests.standin.libraries import environment
from tests.standin.trace import Capture, Captured, Launch, Refusal, Replay, Trace
from tidegate import SyncClient
from tidegate.errors import TidegateError

NO_PROBE = """
import server.serving.loader
server.serving.loader.probe = lambda engine, tiny: None
from server.__main__ import main
raise SystemExit(main())
"""
X = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
Serve = Callable[..., RunningServer]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With `small/1`; a test may add to it."""
    small_model(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def serve(libraries: Path, repository: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts one server over the stand-ins, or all but one of them; its trace is
    `tmp_path / "trace"`."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def starts(
        code: str = "",
        device: str = "cuda",
        without: str = "",
        more: Sequence[str] = (),
        **settings: object,
    ) -> RunningServer:
        found = tmp_path / f"libraries{len(started)}"
        found.mkdir()
        for each in libraries.glob("*.so.*"):
            if each.suffix != ".map" and each.name != without:
                (found / each.name).symlink_to(each)
        told = environment(found, tmp_path / "trace", **settings)
        before = ["env", *(f"{name}={value}" for name, value in told.items())]
        process, log = start(repository, "--device", device, *more, code=code, before=before)
        started.append((process, log))
        return await_ready(process, log)

    yield starts
    for process, log in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        log.unlink()


def test_a_gpu_that_computes_nothing_serves_no_model_and_says_so(serve: Serve) -> None:
    log = serve().log()
    assert " device=cuda:0 models=\n" in log
    (why,) = [line for line in log.splitlines() if "not served: small/1: " in line]
    assert "a step leaves state" in why or "stepping one session changes others" in why


def test_a_model_that_the_gpu_has_no_room_for_is_refused_before_it_takes_any(
    serve: Serve, tmp_path: Path
) -> None:
    log = serve(memory=2**20, more=("--max-sessions", "10000")).log()
    assert "not served: small/1: no room for 10,000 sessions: " in log
    assert "1,048,576 are free on cuda:0" in log
    assert not Trace.read(tmp_path / "trace").of(Launch)


def test_where_no_number_is_set_a_model_has_as_many_sessions_on_the_gpu_as_a_limit_has_room_for(
    serve: Serve,
) -> None:
    server = serve(NO_PROBE, more=("--max-model-bytes", "5000000"))
    told = r"small/1: memory has room for ([0-9,]+) sessions, not for 10,000"
    said = re.search(told, server.log())
    assert said is not None
    with SyncClient(server.address) as client:
        (model,) = client.models()
        assert model.max_sessions == int(said[1].replace(",", ""))
        assert 100 < model.max_sessions < 10_000
        with client.session("small", "a") as session:
            assert session.step(X[0]).shape == (3,)


def test_a_server_on_the_gpu_does_all_that_callers_ask_in_one_thread_a_model(
    serve: Serve, tmp_path: Path
) -> None:
    """Steps, chunks, and sessions that go to the store and come back, are copied and moved."""
    server = serve(NO_PROBE, more=("--max-resident", "4", "--session-ttl", "60"))
    assert " device=cuda:0 models=small/1" in server.log()
    loaded = len(Trace.read(tmp_path / "trace").calls)
    with SyncClient(server.address) as client:
        sessions = [client.session("small", f"a{k}") for k in range(9)]
        for each in sessions:
            each.open()
        for _ in range(2):
            for each in sessions:
                assert each.step(X[0]).shape == (3,)
        first, *_ = sessions
        assert first.chunk(X).shape == (6, 3)
        assert first.forecast(2, X[:2]).shape == (2, 3)
        assert set(first.peek()) == {"h0", "c0", "h1", "c1"}
        first.fork("b").step(X[0])
        client.import_session(first.export(), session_id="c")
        first.reset()
        assert first.steps == 0
        for each in sessions:
            each.close()
    trace = Trace.read(tmp_path / "trace")
    served = Trace(trace.calls[loaded:])
    (thread,) = {each.thread for each in trace.of(Capture)}
    assert served.threads == {thread}
    assert len(served.of(Replay)) >= 19 and served.launches
    assert not [each for each in served.copies if each.pageable]
    assert not trace.of(Refusal)
    assert server.terminate() == 0
    assert "ERROR" not in server.log()


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"without": "libcublas.so.13"}, "onnxruntime's CUDA provider does not start"),
        ({"devices": 0}, "the NVIDIA driver finds no GPU"),
    ],
)
def test_where_cuda_cannot_start_a_server_that_may_choose_serves_on_the_cpu_and_says_why(
    serve: Serve, lacks: dict[str, object], says: str
) -> None:
    server = serve(device="auto", **lacks)
    assert f" INFO server.engine.device running on the CPU: {says}" in server.log()
    with SyncClient(server.address) as client, client.session("small", "a") as session:
        assert session.step(np.ones(5, np.float32)).any()
    assert " device=cpu models=small/1" in server.log()


def test_versions_come_shadow_and_go_while_steps_go_on_each_in_a_thread_of_its_own(
    serve: Serve, repository: Path, tmp_path: Path
) -> None:
    small_model(repository, version=2)
    server = serve(NO_PROBE, more=("--shadow", "small=2", "--watch-seconds", "0.1"))
    with SyncClient(server.address) as client, client.session("small", "old") as old:
        old.step(X[0])
        small_model(repository, version=3)
        eventually(lambda: client.model("small").version == 3, old.step)
        with client.session("small", "new") as new:
            assert new.step(X[0]).shape == (3,) and new.version == 3
        shutil.rmtree(repository / "small" / "3")
        eventually(lambda: client.model("small").version == 1, old.step)
        assert old.version == 1
    trace = Trace.read(tmp_path / "trace")
    by = {each.graph: each.thread for each in trace.of(Capture)}
    assert len(set(by.values())) >= 3
    assert all(each.thread == by[each.graph] for each in trace.of(Replay))
    assert not trace.of(Refusal) and not [each for each in trace.of(Captured) if each.lost]
    assert server.terminate() == 0
    assert "ERROR" not in server.log()


def test_without_cuda_s_graphs_steps_run_eagerly_with_nothing_else_changed(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(NO_PROBE, more=("--no-cuda-graphs",))
    loaded = len(Trace.read(tmp_path / "trace").calls)
    with SyncClient(server.address) as client, client.session("small", "a") as session:
        for row in X:
            assert session.step(row).shape == (3,)
    trace = Trace.read(tmp_path / "trace")
    served = Trace(trace.calls[loaded:])
    assert served.launches and not trace.of(Capture) and not trace.of(Replay)
    assert not [each for each in served.copies if each.pageable]
    assert len(served.threads) == 1
    assert server.terminate() == 0
    assert "ERROR" not in server.log()


def eventually(so: Callable[[], bool], meanwhile: Callable[[np.ndarray], object]) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline
        meanwhile(X[0])
        time.sleep(0.02)


def test_sessions_outlive_a_gpu_that_fails(serve: Serve, tmp_path: Path) -> None:
    """For good, as GPUs do: every call of CUDA's ends so until the process does."""
    kept = ("--data-folder", str(tmp_path / "data"), "--durability", "sync")
    server = serve(NO_PROBE, more=kept, fails_if=tmp_path / "failed")
    with SyncClient(server.address) as client:
        session = client.session("small", "a")
        session.open()
        for row in X[:3]:
            session.step(row)
        (tmp_path / "failed").touch()
        with pytest.raises(TidegateError):
            session.step(X[3])
    assert server.process.wait(60) == 1  # to be started again, by whoever watches over it
    assert "cuda:0 has failed for good" in server.log()
    server = serve(NO_PROBE, more=kept)
    with SyncClient(server.address) as client, client.session("small", "a") as session:
        assert session.steps == 3
        session.step(X[3])
        assert session.steps == 4
