"""The engine on CUDA, over a GPU's double: one thread, captures apart from all else, and whatever
cannot be served there is told in a sentence."""

from __future__ import annotations

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
from server.engine.buckets import Bucket, Mirror
from server.engine.captured import CapturedRows
from server.engine.cuda_engine import WrongThread
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.probe import probe
from server.errors import BadModel
from server.metrics import Metrics
from server.serving.model import ServedModel
from tests.server.core.parts import CPU, WEIGHTS, make_bundle
from tests.server.core.test_walks import OPERATIONS, SLOTS, WAIT, Walk, assert_state
from tests.server.engine.double import DoubleStream, double_engine
from tests.server.engine.stepped import alike, rows
from tests.training.graphs.networks import NETWORKS
from training.graphs.whole import Form, graphs

SLOT = np.array([1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


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

    def forgetful(bucket: Bucket, mirror: Mirror, count: int) -> None:
        """Every second time, what was sent comes back in place of outputs."""
        turns.append(bucket.size)
        if len(turns) % 2:
            bucket._stream.copy_in(bucket._out, mirror.sent, bucket._row_out)
        fetch(bucket, mirror, count)

    turns = list[int]()
    with (
        mock.patch.object(Bucket, "fetch", forgetful),
        pytest.raises(BadModel, match="a captured run of 4 rows answers other than an eager one"),
    ):
        double_engine(bundle, 4).begin()


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
