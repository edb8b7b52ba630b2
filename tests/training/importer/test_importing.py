"""Graphs of many kinds, imported: the bundle steps as plain onnxruntime steps the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from server.engine.engine import Engine
from tests.training.importer.graphs import (
    COUNTER,
    CPU,
    LEAKY,
    bundle_of,
    import_file,
    lstm,
    model_of,
    plain,
    rows,
    steps,
    typed,
)
from training.__main__ import main
from training.network import Floats

DTYPES = ["float32", "float16", "float64", "int64", "int32", "bool"]


def signals(sessions: int, length: int, width: int) -> Floats:
    drawn = np.random.default_rng(11).normal(0, 2, (sessions, length, width))
    return drawn.astype(np.float32)


def test_an_lstm_taken_apart_steps_as_its_file_with_the_batch_on_axis_1(tmp_path: Path) -> None:
    model, given = lstm(), signals(6, 12, 3)
    bundle = bundle_of(model, tmp_path, "--state h=hn:1 --state c=cn:1 --input x --output y")
    found, states = steps(bundle, given)
    empty = np.zeros((1, 1, 4), np.float32)
    for signal, outputs in zip(given, found, strict=True):
        pairs = {"h": "hn", "c": "cn"}
        expected = plain(model, signal, {"h": empty, "c": empty}, pairs, (1, 1, 3))
        np.testing.assert_allclose(outputs, np.array(expected)[:, 0, 0], rtol=1e-5, atol=1e-6)
    assert [state.shape for state in states] == [(6, 1, 4), (6, 1, 4)]
    assert bundle.manifest.max_batch > 1


def test_the_only_axis_that_a_state_leaves_open_is_its_batch_s(tmp_path: Path) -> None:
    text = LEAKY.replace("float[batch, 3] h)", "float[1, n, 3] h)").replace(
        "float[batch, 3] hn)", "float[1, n, 3] hn)"
    )
    bundle = bundle_of(model_of(text), tmp_path, "--state h=hn --input x --output y")
    given = signals(4, 6, 3)
    found, states = steps(bundle, given)
    h = np.zeros((4, 3), np.float32)
    for t in range(given.shape[1]):
        h = h * np.float32(0.5) + given[:, t]
        np.testing.assert_allclose(found[:, t], np.tanh(h), rtol=1e-5)
    assert [state.shape for state in states] == [(4, 1, 3)]
    assert bundle.manifest.max_batch > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_keeps_its_type(tmp_path: Path, dtype: str) -> None:
    model, given = typed(dtype), signals(4, 9, 2)
    bundle = bundle_of(model, tmp_path, "--state s=sn --input x --output y")
    found, (state,) = steps(bundle, given)
    assert state.dtype == dtype
    start, near = np.zeros((1, 2), dtype), 0.0
    if dtype == "float16":  # onnxruntime leaves out some of the roundings
        near = 2e-3
    for signal, outputs, row in zip(given, found, state, strict=True):
        expected = np.concatenate(plain(model, signal, {"s": start}, {"s": "sn"}, (1, 2)))
        np.testing.assert_allclose(outputs, expected, rtol=near, atol=near)
        np.testing.assert_allclose(row.astype(np.float32), expected[-1], rtol=near, atol=near)


def test_a_counter_begins_where_it_was_told_to(tmp_path: Path) -> None:
    options = "--state n=nn --input x --output y --output nn --initial n=41"
    bundle = bundle_of(model_of(COUNTER), tmp_path, options)
    assert [(each.name, each.size) for each in bundle.manifest.outputs] == [("y", 2), ("nn", 1)]
    assert bundle.manifest.states[0].initial == 41
    found, (count,) = steps(bundle, np.ones((2, 3, 2), np.float32))
    assert found[0].tolist() == [[42, 42, 42], [43, 43, 43], [44, 44, 44]]
    assert count.tolist() == [[44], [44]]


@pytest.mark.parametrize(("axis", "shape"), [(0, "[batch, 1, 3]"), (1, "[1, batch, 3]")])
def test_an_input_may_have_a_time_axis_of_one(tmp_path: Path, axis: int, shape: str) -> None:
    text = LEAKY.replace("float[batch, 3]", f"float{shape}")
    options = f"--state h=hn:{axis} --input x:{axis} --output y:{axis}"
    bundle, given = bundle_of(model_of(text), tmp_path, options), signals(4, 6, 3)
    found, _ = steps(bundle, given)
    h = np.zeros((4, 3), np.float32)
    for t in range(given.shape[1]):
        h = h * np.float32(0.5) + given[:, t]
        np.testing.assert_allclose(found[:, t], np.tanh(h), rtol=1e-5)
    assert bundle.manifest.max_batch > 1


@pytest.mark.parametrize("opset", [11, 17])
def test_states_may_have_any_number_of_axes_at_once(tmp_path: Path, opset: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    axes (float[batch, 2] x, float[batch] a, float[batch, 2] b, float[batch, 1, 2] c)
        => (float[batch, 2] y, float[batch] an, float[batch, 2] bn, float[batch, 1, 2] cn)
    {{
        one = Constant<value = float {{1}}>()
        an = Add(a, one)
        bn = Add(b, x)
        flat = Constant<value = int64[2] {{-1, 2}}>()
        deep = Constant<value = int64[3] {{-1, 1, 2}}>()
        rows = Reshape(c, flat)
        sum = Add(rows, bn)
        cn = Reshape(sum, deep)
        tall = Constant<value = int64[2] {{-1, 1}}>()
        count = Reshape(an, tall)
        y = Mul(sum, count)
    }}"""
    options = "--state a=an --state b=bn --state c=cn --input x --output y --initial a=3"
    bundle, given = bundle_of(model_of(text), tmp_path, options), signals(3, 5, 2)
    found, states = steps(bundle, given)
    b, c = np.zeros((2, 3, 2), np.float32)
    for t in range(5):
        b = b + given[:, t]
        c = c + b
        np.testing.assert_allclose(found[:, t], c * np.float32(4 + t), rtol=1e-5, atol=1e-6)
    assert [state.shape for state in states] == [(3,), (3, 2), (3, 1, 2)]
    assert bundle.manifest.max_batch > 1
    assert main(["verify", str(tmp_path / "models/taken/1")]) == 0


def test_labels_go_in_as_whole_numbers_and_labels_come_out(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    tokens (int64[batch, 1] x, float[batch, 4] h) => (int64[batch] y, float[batch, 4] hn)
    <float[5, 4] table>
    {
        at = Constant<value = int64[1] {1}>()
        label = Squeeze(x, at)
        row = Gather(table, label)
        half = Constant<value = float {0.5}>()
        kept = Mul(h, half)
        hn = Add(kept, row)
        y = ArgMax<axis = 1, keepdims = 0>(hn)
    }"""
    table = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    options = "--state h=hn --input x --output y --range 0,4"
    bundle = bundle_of(model_of(text, table=table), tmp_path, options)
    given = np.random.default_rng(5).integers(0, 5, (3, 20, 1)).astype(np.float32)
    found, _ = steps(bundle, given)
    h = np.zeros((3, 4), np.float32)
    for t in range(20):
        h = h * np.float32(0.5) + table[given[:, t, 0].astype(int)]
        assert found[:, t, 0].tolist() == h.argmax(axis=1).tolist()
    entry = json.loads((tmp_path / "models/taken/1/model.json").read_text())["features"][0]
    assert (entry["min"], entry["max"]) == (0, 4)


def test_a_row_that_is_not_finite_keeps_its_state_and_says_so(tmp_path: Path) -> None:
    """The output of this graph would stay finite; only its state goes wrong."""
    text = LEAKY.replace("hn = Add(kept, x)", "root = Sqrt(x)\n    hn = Add(kept, root)")
    text = text.replace("y = Tanh(hn)", "y = Tanh(h)")
    options = "--state h=hn --input x --output y --range 0,2"
    engine = Engine(bundle_of(model_of(text), tmp_path, options), CPU, 3)
    slots, good = np.arange(1, 4), np.ones((3, 1, 3), np.float32)
    engine.run(rows(slots, good, True))
    (before,) = engine.read(slots)
    good[1, 0, 2] = -1
    found = engine.run(rows(slots, good, False))[:, 0]
    (after,) = engine.read(slots)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    np.testing.assert_array_equal(after[1], before[1])
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]] / 2 + 1)


def test_the_context_may_be_longer_than_what_is_sent(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    window (float[batch, 5] x, float[batch, 1] h) => (float[batch, 5] y, float[batch, 1] hn)
    {
        one = Constant<value = float {1}>()
        hn = Add(h, one)
        y = Mul(x, hn)
    }"""
    options = "--state h=hn --input x --output y --context 3 --features left,right"
    bundle = bundle_of(model_of(text), tmp_path, options)
    assert [feature.name for feature in bundle.manifest.features] == ["left", "right"]
    given = np.arange(1, 9, dtype=np.float32).reshape(1, 4, 2)
    found, _ = steps(bundle, given)
    for t, row in enumerate(found[0]):
        seen = np.concatenate([np.zeros(3), given[0].ravel()])[2 * t : 2 * t + 5]
        assert row.tolist() == (seen * (t + 1)).tolist()


def test_weights_in_a_file_beside_the_model_come_into_the_bundle(tmp_path: Path) -> None:
    model, given = lstm(), signals(2, 4, 3)
    options = "--state h=hn:1 --state c=cn:1 --input x --output y"
    expected, _ = steps(bundle_of(model, tmp_path, options), given)
    apart = tmp_path / "apart"
    apart.mkdir()
    onnx.save(model, apart / "given.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    assert (apart / "weights.bin").stat().st_size >= 4 * (48 + 64 + 16 + 8)
    bundle = import_file(apart / "given.onnx", tmp_path / "models" / "taken" / "2", options)
    (apart / "weights.bin").unlink()
    found, _ = steps(bundle, given)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_verify_passes_on_every_type_of_state(
    tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle_of(typed(dtype), tmp_path, "--state s=sn --input x --output y")
    assert main(["verify", str(tmp_path / "models/taken/1")]) == 0
    printed = capsys.readouterr().out
    for check in ("arenas", "neighbours", "poisoned row", "read and write"):
        assert f"ok   {check}: " in printed


def test_features_are_named_by_a_file_of_a_name_a_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("left\nright\n\nup, or down\n")
    options = f"--state h=hn --input x --output y --features {tmp_path / 'names.txt'}"
    bundle = bundle_of(model_of(LEAKY), tmp_path, options)
    assert [each.name for each in bundle.manifest.features] == ["left", "right", "up, or down"]
