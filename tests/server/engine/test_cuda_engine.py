"""The engine on CUDA, over a GPU's double: one thread, captures apart from all else, and whatever
cannot be served there is told in a sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.bundle.repository import Bundle
from server.config import Config
from server.engine import cuda_engine
from server.engine.buckets import Bucket
from server.engine.captured import CapturedRows
from server.engine.cuda_engine import CudaEngine, Released, WrongThread
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.engine.gate import Gate
from server.engine.graph import GraphError
from server.engine.probe import probe
from server.engine.thread import EngineThread
from server.errors import BadModel
from server.metrics import Metrics
from server.serving.loader import Loader
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tests.server.core.parts import CPU, WEIGHTS, make_bundle
from tests.server.core.test_walks import OPERATIONS, SLOTS, WAIT, Walk, assert_state
from tests.server.engine.double import CUDA, DoubleSession, DoubleStream, double_engine
from tests.training.graphs.networks import NETWORKS
from training.graphs.whole import Form, graphs

SLOT = np.array([1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


def rows(count: int, fresh: bool = True) -> EngineRows:
    ones = np.ones((count, 1, 5), np.float32)
    flags, lengths = np.full(count, fresh), np.ones(count, np.int32)
    return EngineRows(np.arange(1, count + 1), flags, lengths, ones)


def alike(ours: Engine, bundle: Bundle) -> None:
    """Three steps of three sessions are those of an engine on the CPU."""
    theirs = Engine(bundle, CPU, ours.capacity)
    for k in range(3):
        found, wanted = (each.run(rows(3, k == 0)) for each in (ours, theirs))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_before_it_begins_any_thread_may_run_it_and_then_one_alone(bundle: Bundle) -> None:
    engine = double_engine(bundle, 4)
    with ThreadPoolExecutor(1) as other:
        other.submit(engine.run, rows(2)).result()
        engine.begin()
        engine.begin()  # once is enough
        calls = (
            lambda: engine.run(rows(2)),
            lambda: engine.read(SLOT),
            lambda: engine.write(SLOT, engine.read(SLOT)),
            engine.begin,
        )
        for call in calls:
            with pytest.raises(WrongThread, match="small/1 is run by a thread that did not"):
                other.submit(call).result()
    alike(engine, bundle)


def test_it_is_probed_as_any_other_and_all_its_memory_comes_back(bundle: Bundle) -> None:
    engine, tiny = double_engine(bundle, 300), double_engine(bundle, 2)
    probe(engine, tiny)
    engine.begin()
    probe(engine, tiny)
    assert not any(state.any() for state in engine.read(np.arange(1, 301)))
    stream = engine._gpu.stream
    assert isinstance(stream, DoubleStream) and stream.held
    engine.release()
    assert not stream.held


def test_the_states_of_a_session_lie_in_one_row_where_the_graph_takes_them_so(
    bundle: Bundle,
) -> None:
    row = 4 * 12 * 4
    engine = double_engine(bundle, 4)
    first, *others = [arena.address for arena in engine.arenas]
    assert [each - first for each in others] == [12 * 4, 2 * 12 * 4, 3 * 12 * 4]
    stream = engine._gpu.stream
    assert isinstance(stream, DoubleStream)
    assert len(stream.held[first]) == engine.state_bytes == (4 + 2) * row
    apart = replace(bundle, graphs=graphs(WEIGHTS, Form(packed=False)))
    assert double_engine(apart, 4).state_bytes == engine.state_bytes


def test_arenas_beyond_32_bits_are_left_to_the_graph_that_can_count_so_far(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA's ScatterElements would put rows beyond them somewhere else, ScatterND does not."""
    values = (4 + 2) * 4 * 12
    with mock.patch.object(cuda_engine, "LARGEST", values):
        assert double_engine(bundle, 4)._single_file == SINGLE_CUDA
        with caplog.at_level("INFO"):
            engine = double_engine(bundle, 5)
    assert engine._single_file == SINGLE
    assert f"small/1: single.cuda.onnx is left out, for it counts to {values} values" in caplog.text
    engine.begin()
    alike(engine, bundle)


def test_states_of_several_widths_are_not_taken_in_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, NETWORKS["projected"])
    double_engine(bundle, 4).begin()
    packed = bundle.graphs | {SINGLE_CUDA: graphs(WEIGHTS, Form())[SINGLE_CUDA]}
    says = (
        r"small/1/single\.cuda\.onnx takes all states in one tensor, and they are not of one shape"
    )
    with pytest.raises(BadModel, match=says):
        double_engine(replace(bundle, graphs=packed), 4)


def test_an_older_bundle_is_served_by_the_graph_that_it_has(bundle: Bundle) -> None:
    old = {name: graph for name, graph in bundle.graphs.items() if name != SINGLE_CUDA}
    assert len(old) < len(bundle.graphs)
    engine = double_engine(replace(bundle, graphs=old), 4)
    engine.begin()
    alike(engine, bundle)


def test_without_a_graph_of_single_steps_ragged_ones_step_them(bundle: Bundle) -> None:
    singles = (SINGLE, SINGLE_CUDA)
    few = {name: graph for name, graph in bundle.graphs.items() if name not in singles}
    engine = double_engine(replace(bundle, graphs=few), 4)
    engine.begin()
    alike(engine, bundle)


def test_what_cannot_be_captured_runs_eagerly(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """A graph with operators that onnxruntime leaves to the CPU."""
    by_operator = graphs(WEIGHTS, Form(cuda="operator", single="operator"))
    engine = double_engine(replace(bundle, graphs=by_operator), 4)
    with caplog.at_level("INFO"):
        engine.begin()
    assert "small/1/single.cuda.onnx runs eagerly on CUDA" in caplog.text
    alike(engine, bundle)


def test_captures_may_be_left_out(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(CapturedRows, "begin")
    engine = double_engine(bundle, 4, device=Device("cuda", captures=False))
    engine.begin()
    alike(engine, bundle)


def test_int8_is_for_the_cpu_alone(bundle: Bundle) -> None:
    coarse = replace(bundle, graphs=graphs(WEIGHTS, Form("scan", precision="int8")))
    assert SINGLE_CUDA not in coarse.graphs
    with pytest.raises(BadModel, match=r"small/1/step\.onnx .* MatMulInteger.*in int8 on the CPU"):
        double_engine(coarse, 4)
    Engine(coarse, CPU, 4).run(rows(2))


def test_memory_is_added_up_before_any_is_taken(bundle: Bundle) -> None:
    states = 4 * 12 * 4 * (100_000 + 2)
    with pytest.raises(BadModel) as told:
        double_engine(bundle, 100_000, memory=states)
    says = f"small/1: no room for 100,000 sessions on cuda:0: {states:,} bytes for states, "
    assert str(told.value).startswith(says) and f"{states:,} are free" in str(told.value)
    assert double_engine(bundle, 100_000, memory=2 * states).state_bytes == states


def test_a_replay_that_answers_something_else_is_refused(bundle: Bundle) -> None:
    fetch = Bucket.fetch

    def forgetful(bucket: Bucket, count: int) -> None:
        """Every second time, what was sent comes back in place of outputs."""
        turns.append(bucket.size)
        if len(turns) % 2:
            bucket._stream.copy_in(bucket._out, bucket._sent, bucket._row_out)
        fetch(bucket, count)

    turns = list[int]()
    with (
        mock.patch.object(Bucket, "fetch", forgetful),
        pytest.raises(BadModel, match="a captured run of 4 rows answers other than an eager one"),
    ):
        double_engine(bundle, 4).begin()


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
    waited, closed = stream.wait, list[bool]()

    def wait() -> None:
        amid.set()
        assert on.wait(20)
        closed.append(not stream.held)
        waited()

    with ThreadPoolExecutor(2) as others, mock.patch.object(stream, "wait", wait):
        run = others.submit(engine.run, rows(3))
        assert amid.wait(20)
        released = others.submit(engine.release)
        time.sleep(0.01)
        on.set()
        found = run.result(20)
        released.result(20)
    np.testing.assert_allclose(found, theirs.run(rows(3)), rtol=0, atol=1e-5)
    assert closed[0] is False and not stream.held
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


@pytest.fixture(scope="module")
def model(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder = tmp_path_factory.mktemp("repository")
    config = Config(model_repository=folder, max_sessions=SLOTS, max_resident=2)
    served = ServedModel(double_engine(bundle, 2), config, Metrics())
    served.start()
    yield served
    served.unload()


@settings(max_examples=30, deadline=None)
@given(operations=OPERATIONS, seed=st.integers(0, 2**32 - 1))
def test_sessions_walk_on_cuda_as_on_the_cpu(
    model: ServedModel, operations: list[tuple[str, str, str, int]], seed: int
) -> None:
    """Opened, stepped, forked, moved, spilled and forecast at random, every run in one thread."""
    model.end_all()
    walk = Walk(model, np.random.default_rng(seed))
    for name in "ab":  # so that most operations find a session
        walk.go("open", name, name, 1)
    for operation in operations:
        walk.go(*operation)
    for name, seen in walk.live.items():
        assert_state(model.operations.export(name).result(WAIT), seen)


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
