"""The engine: rows step alone, arenas change in place, and graphs that do not are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from server.bundle.repository import Bundle
from server.engine.device import IDENTITY, Device, choose, start_problem
from server.engine.engine import Engine, EngineRows
from server.engine.probe import probe
from server.errors import BadModel
from tests.server.core.parts import CPU, WEIGHTS, make_bundle
from training.reference import NumpyNetwork


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


def rows(slots: list[int], features: np.ndarray, fresh: bool) -> EngineRows:
    lengths = np.full(len(slots), features.shape[1], np.int32)
    return EngineRows(np.array(slots), np.full(len(slots), fresh), lengths, features)


def test_a_provider_that_does_not_start_is_told_from_one_that_does() -> None:
    """Without CUDA onnxruntime goes on with the CPU in silence; that must not count as CUDA."""
    assert start_problem(CPU) is None
    model = onnx.load_from_string(IDENTITY)
    onnx.checker.check_model(model, full_check=True)
    if choose("auto").kind == "cpu":
        assert "CUDA provider does not start" in str(start_problem(Device("cuda")))
    else:
        assert start_problem(Device("cuda")) is None


def test_a_step_moves_its_own_rows_alone_and_where_they_lie(bundle: Bundle) -> None:
    engine = Engine(bundle, CPU, 50)
    rng = np.random.default_rng(0)
    every = np.arange(51, dtype=np.int64)
    engine.write(every, [rng.normal(size=a.shape).astype("f4") for a in engine.read(every)])
    before, places = engine.read(every), [arena.address for arena in engine.arenas]
    for width in (1, 4):
        engine.run(rows([7, 30], rng.normal(size=(2, width, 5)).astype(np.float32), False))
    after = engine.read(every)
    others = np.delete(every, [7, 30])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[others], old[others])
        assert (new[[7, 30]] != old[[7, 30]]).any(axis=1).all()
    assert [arena.address for arena in engine.arenas] == places


def test_a_fresh_row_ignores_what_the_slot_held(bundle: Bundle) -> None:
    engine = Engine(bundle, CPU, 4)
    every = np.arange(5, dtype=np.int64)
    engine.write(every, [np.full((5, 12), 0.7, np.float32) for _ in engine.arenas])
    x = np.random.default_rng(1).normal(size=(1, 6, 5)).astype(np.float32)
    reference = NumpyNetwork(WEIGHTS)
    expected, _ = reference.run(x[0], reference.initial())
    np.testing.assert_allclose(engine.run(rows([3], x, True))[0], expected, atol=1e-5)


def test_rows_read_and_written_back_go_on_as_if_never_moved(bundle: Bundle) -> None:
    engine, other = Engine(bundle, CPU, 4), Engine(bundle, CPU, 9)
    x = np.random.default_rng(2).normal(size=(1, 12, 5)).astype(np.float32)
    reference = NumpyNetwork(WEIGHTS)
    expected, _ = reference.run(x[0], reference.initial())
    engine.run(rows([2], np.ascontiguousarray(x[:, :5]), True))
    other.write(np.array([8]), engine.read(np.array([2])))
    got = other.run(rows([8], np.ascontiguousarray(x[:, 5:]), False))
    np.testing.assert_allclose(got[0], expected[5:], atol=1e-5)


@pytest.mark.parametrize("width", [1, 3])
def test_a_row_that_overflows_keeps_its_state_and_its_neighbour_steps(
    tmp_path: Path, width: int
) -> None:
    """A head so large that some outputs leave float32's range."""
    top = np.float32(3e38)
    huge = replace(WEIGHTS, head_w=np.full((3, 12), top), head_b=np.full(3, top))
    engine = Engine(make_bundle(tmp_path, huge), CPU, 4)
    slots = np.array([1, 2])
    engine.write(slots, [np.zeros((2, 12), np.float32) for _ in engine.arenas])
    x = np.random.default_rng(3).normal(0, 9, (40, 2, width, 5)).astype(np.float32)
    overflowed = 0
    for features in x:
        before = engine.read(slots)
        finite = np.isfinite(engine.run(rows([1, 2], features, False))).all(axis=(1, 2))
        for old, new in zip(before, engine.read(slots), strict=True):
            assert np.isfinite(new).all()
            np.testing.assert_array_equal((new == old).all(axis=1), ~finite)
        overflowed += int((~finite).sum())
    assert overflowed > 0


def changed(bundle: Bundle, change: str) -> Bundle:
    """The bundle with every step graph's arena h0 spoiled in one way."""
    graphs = dict(bundle.graphs)
    for name in ("single.onnx", "step.onnx"):
        model = onnx.load_from_string(graphs[name])
        (last,) = [node for node in model.graph.node if "state.h0.next" in node.output]
        at = list(model.graph.node).index(last)
        tiny = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "spoil")
        model.graph.initializer.append(tiny)
        if change == "copies":  # a new tensor each run, as large as the arena
            model.graph.node.insert(at, helper.make_node("Add", ["state.h0", "spoil"], ["up"]))
            model.graph.node.insert(at + 1, helper.make_node("Sub", ["up", "spoil"], ["same"]))
            last.input[0] = "same"
        elif change == "moves others":
            last.output[0] = "scattered"
            model.graph.node.append(
                helper.make_node("Mul", ["scattered", "spoil"], ["state.h0.next"])
            )
        else:
            del model.graph.node[at]
            model.graph.node.append(helper.make_node("Identity", ["state.h0"], ["state.h0.next"]))
        graphs[name] = model.SerializeToString()
    return replace(bundle, graphs=graphs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("copies", "the arena is not updated in place"),
        ("moves others", "stepping one session changes others in state 'h0'"),
        ("stands still", "a step leaves state 'h0' where it was"),
    ],
)
def test_a_graph_that_does_not_update_in_place_is_refused(
    bundle: Bundle, change: str, says: str
) -> None:
    spoiled = changed(bundle, change)
    with pytest.raises(BadModel, match=says):
        probe(Engine(spoiled, CPU, 300_000), Engine(spoiled, CPU, 2))


def test_a_sound_graph_passes_and_leaves_the_arena_as_it_was(bundle: Bundle) -> None:
    engine = Engine(bundle, CPU, 300_000)
    probe(engine, Engine(bundle, CPU, 2))
    assert not any(state.any() for state in engine.read(np.arange(1, 300_001)))


def test_a_graph_that_does_not_load_is_refused_by_name(bundle: Bundle) -> None:
    graphs = bundle.graphs | {"step.onnx": b"no graph"}
    with pytest.raises(BadModel, match=r"small/1/step\.onnx cannot be used"):
        Engine(replace(bundle, graphs=graphs), CPU, 4)
