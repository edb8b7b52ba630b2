"""The server holds states of every type: read, written, forked, taken in, and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.bundle import manifest as manifests
from server.engine.engine import Engine
from server.engine.probe import probe
from server.errors import BadModel, BadSnapshot
from server.sessions.snapshot import Tensor
from tests.server.core.parts import Caller, make_model
from tests.training.importer.graphs import COUNTER, CPU, LEAKY, bundle_of, model_of, typed

OPTIONS = "--state s=sn --input x --output y"


@pytest.mark.parametrize("dtype", manifests.DTYPES)
def test_a_session_s_state_is_taken_out_and_in_exactly(tmp_path: Path, dtype: str) -> None:
    model = make_model(bundle_of(typed(dtype), tmp_path, OPTIONS), tmp_path, max_sessions=4)
    model.start()
    try:
        caller = Caller(model)
        for name in ("one", "new"):
            model.open(name)
        unused = model.operations.export("new").result(10).states[0].values
        np.testing.assert_array_equal(unused, np.zeros(2, dtype))
        assert unused.dtype == dtype
        given = np.array([[3.5, -2.5]], np.float32)
        caller.step([("one", None, given)])
        taken = model.operations.export("one").result(10)
        model.operations.take_in(taken, "two").result(10)
        one, two = (caller.step([(name, None, given)]).outputs for name in ("one", "two"))
        assert one is not None
        assert two is not None
        np.testing.assert_array_equal(one, two)
    finally:
        model.stop()


def test_a_snapshot_of_a_bool_state_holds_nothing_but_true_and_false(tmp_path: Path) -> None:
    model = make_model(bundle_of(typed("bool"), tmp_path, OPTIONS), tmp_path, max_sessions=4)
    model.start()
    try:
        model.open("one")
        taken = model.operations.export("one").result(10)
        odd = np.array([0, 5], np.uint8).view(np.bool_)
        spoiled = replace(taken, states=[Tensor("s", odd)])
        with pytest.raises(BadSnapshot, match=r"state 's' .* bytes other than 0 and 1"):
            model.operations.take_in(spoiled, "two")
    finally:
        model.stop()


@pytest.mark.parametrize(
    ("dtype", "initial", "says"),
    [
        ("int64", "0.5", "'s' begins at 0.5, no int64"),
        ("bool", "2", "'s' begins at 2.0, no bool"),
        ("int8", "0", "unsupported dtype 'int8'"),
    ],
)
def test_a_manifest_whose_state_cannot_be_is_refused(dtype: str, initial: str, says: str) -> None:
    text = """{"format": 1, "name": "m", "version": 1, "features": [{"name": "x"}],
    "outputs": [{"name": "y", "size": 1, "kind": "value"}],
    "states": [{"name": "s", "shape": [2], "dtype": "DTYPE", "initial": INITIAL}],
    "max_chunk": 1, "max_batch": 1,
    "files": {"step.onnx": "", "read.onnx": "", "write.onnx": ""}}"""
    good = text.replace("DTYPE", "float32").replace("INITIAL", "0")
    assert manifests.parse(good.encode(), "m/1").states[0].initial == 0
    with pytest.raises(BadModel, match=says):
        manifests.parse(text.replace("DTYPE", dtype).replace("INITIAL", initial).encode(), "m/1")


def test_a_counter_that_comes_to_the_mark_of_the_check_at_load_is_served(tmp_path: Path) -> None:
    """Its first step makes 1 of 0, and 1 is what the check marks arenas with first."""
    bundle = bundle_of(model_of(COUNTER), tmp_path, "--state n=nn --input x --output y")
    engine = Engine(bundle, CPU, 4000)
    probe(engine, Engine(bundle, CPU, 4))
    assert not any(state.any() for state in engine.read(np.arange(1, 4001)))


def test_a_model_that_makes_nothing_finite_of_zeros_is_served(tmp_path: Path) -> None:
    """A row of zeros keeps its state, which must not look as if the arena stood still."""
    text = LEAKY.replace("hn = Add(kept, x)", "size = Abs(x)\n    loud = Log(size)\n    "
                         "hn = Add(kept, loud)")  # fmt: skip
    bundle = bundle_of(model_of(text), tmp_path, "--state h=hn --input x --output y")
    probe(Engine(bundle, CPU, 4000), Engine(bundle, CPU, 4))
