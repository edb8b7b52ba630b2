"""Engines on CUDA beside each other, and how each ends: captures keep others out no longer than
they must, a run that fails leaves nothing behind, and memory is given back once it is unused."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from server.bundle.repository import Bundle
from server.config import Config
from server.engine.captured import CapturedRows
from server.engine.cuda_engine import CudaEngine, Released
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.gate import Gate
from server.engine.graph import GraphError
from server.engine.thread import EngineThread
from server.metrics import Metrics
from server.serving.loader import Loader
from server.serving.registry import Registry
from tests.server.core.parts import CPU, make_bundle
from tests.server.engine.double import CUDA, DoubleSession, DoubleStream, double_engine
from tests.server.engine.stepped import alike, rows

SLOT = np.array([1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


def test_a_capture_waits_for_runs_of_others_and_they_for_it(bundle: Bundle) -> None:
    """The double breaks a capture that another thread's call meets, as CUDA does."""
    serving, over = double_engine(bundle, 8), threading.Event()

    def serve() -> int:
        serving.begin()
        count = 0
        while not over.is_set():
            serving.run(rows(5))
            serving.read(SLOT)
            count += 1
        return count

    with ThreadPoolExecutor(1) as other:
        runs = other.submit(serve)
        try:
            for _ in range(5):
                engine = double_engine(bundle, 40)
                engine.begin()
                engine.release()
        finally:
            over.set()
        assert runs.result(20) > 0


def test_a_capture_within_another_call_would_wait_for_itself() -> None:
    gate = Gate()
    with gate, gate, pytest.raises(RuntimeError, match="amid another call"):  # noqa: SIM117
        with gate.alone():
            pass
    with gate.alone(), gate:
        pass


def test_a_capture_that_waits_for_a_model_to_open_holds_up_nobody_else() -> None:
    """It keeps others out only once it waits for runs, which are short."""
    gate, opening, opened = Gate(), threading.Event(), threading.Event()
    done = list[str]()

    def opens() -> None:
        with gate.long(), gate.long():
            opening.set()
            opened.wait(20)
            done.append("opened")

    def captures() -> None:
        with gate.alone():
            done.append("captured")

    def runs() -> None:
        with gate:
            pass

    with ThreadPoolExecutor(3) as others:
        waits = [others.submit(opens)]
        opening.wait(20)
        waits.append(others.submit(captures))
        try:
            for _ in range(50):
                others.submit(runs).result(20)
                time.sleep(0.0005)  # so that the capture has come
        finally:
            opened.set()
        for each in waits:
            each.result(20)
    assert done == ["opened", "captured"]


def test_a_run_comes_to_its_end_before_its_memory_is_given_back_and_none_follows(
    bundle: Bundle,
) -> None:
    engine, theirs = double_engine(bundle, 4), Engine(bundle, CPU, 4)
    stream, amid, on = engine._gpu.stream, threading.Event(), threading.Event()
    assert isinstance(stream, DoubleStream)
    waited, closed, came = stream.wait, stream.close, list[str]()

    def wait() -> None:
        amid.set()
        assert on.wait(20)
        waited()
        came.append("waited")

    def close() -> None:
        came.append("closed")
        closed()

    with (
        ThreadPoolExecutor(2) as others,
        mock.patch.object(stream, "wait", wait),
        mock.patch.object(stream, "close", close),
    ):
        run = others.submit(engine.run, rows(3))
        assert amid.wait(20)
        released = others.submit(engine.release)
        time.sleep(0.02)
        on.set()
        found = run.result(20)
        released.result(20)
    np.testing.assert_allclose(found, theirs.run(rows(3)), rtol=0, atol=1e-5)
    assert came.index("closed") == len(came) - 2, "what it waits for itself comes after"
    assert not stream.held
    for call in (lambda: engine.run(rows(3)), lambda: engine.read(SLOT)):
        with pytest.raises(Released, match="small/1 has given its memory back"):
            call()


@pytest.mark.parametrize("captures", [True, False], ids=["captured", "eager"])
def test_what_a_run_that_failed_had_asked_for_is_over_before_the_next_one_lays_its_rows(
    bundle: Bundle, captures: bool
) -> None:
    """Its copy may be under way, and its mirror is the next one's."""
    engine = double_engine(bundle, 4, device=Device("cuda", captures=captures))
    engine.begin()
    stream = engine._gpu.stream
    assert isinstance(stream, DoubleStream)
    for calls in (
        lambda: engine.run(rows(3)),
        lambda: engine.read(SLOT),
        lambda: engine.run(replace(rows(3), features=np.ones((3, 2, 5), np.float32))),
    ):
        broken = RuntimeError("cudaErrorLaunchFailure")
        with mock.patch.object(DoubleSession, "run", side_effect=broken):
            with pytest.raises(RuntimeError, match="cudaErrorLaunchFailure"):
                calls()
            assert stream.idle
    alike(engine, bundle)


NOT_BEGUN = {
    "small/1/single.cuda.onnx cannot be captured: cudaErrorStreamCaptureUnsupported; it may be "
    "without (cuda_graphs)": (
        CapturedRows, "begin", GraphError("cudaErrorStreamCaptureUnsupported"),
    ),
    """small/1 cannot be started: RuntimeError("can't start new thread")""": (
        EngineThread, "start", RuntimeError("can't start new thread"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("says", NOT_BEGUN)
def test_a_model_that_cannot_begin_is_not_served_and_gives_all_back(
    bundle: Bundle, tmp_path: Path, says: str
) -> None:
    made, metrics = list[CudaEngine](), Metrics()

    def opened(bundle: Bundle, _: Device, capacity: int, __: int) -> CudaEngine:
        made.append(double_engine(bundle, capacity))
        return made[-1]

    make_bundle(tmp_path)
    config = Config(model_repository=tmp_path, max_sessions=10, store="none")
    registry, before = Registry(metrics), set(threading.enumerate())
    loader = Loader(config, CUDA, metrics, registry, lambda: None)
    where, name, error = NOT_BEGUN[says]
    broken = mock.patch.object(where, name, side_effect=error)
    with mock.patch("server.serving.loader.open_engine", opened), broken:
        loader.load()
    assert [*registry.broken()] == [("small", 1, says)]
    streams = [each._gpu.stream for each in made]
    assert len(streams) == 2
    assert not any(stream.held for stream in streams if isinstance(stream, DoubleStream))
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if thread.name.startswith("scheduler")]
