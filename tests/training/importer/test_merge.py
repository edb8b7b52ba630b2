"""What a graph may be written with: bodies, functions, other operators, older opsets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.training.importer.graphs import LEAKY, bundle_of, model_of, steps
from training.network import Floats

LEAK = "kept = Mul(h, half)"
OPTIONS = "--state h=hn --input x --output y"

BODIES = {
    "If": """always = Constant<value = bool {1}>()
    kept = If(always) <
        then_branch = leak () => (float[batch, 3] less) { less = Mul(h, half) },
        else_branch = none () => (float[batch, 3] same) { same = Identity(h) }
    >""",
    # The body's names are those of the graph around it, and of the bundle's own.
    "Loop": """once = Constant<value = int64 {1}>()
    always = Constant<value = bool {1}>()
    kept = Loop(once, always, h) <
        body = turn (int64 slots, bool fresh, float[batch, 3] output)
            => (bool more, float[batch, 3] input)
        { more = Identity(fresh)  input = Mul(output, half) }
    >""",
    "Scan": """rows = Unsqueeze(h, first)
    none = Constant<value = float {0}>()
    zero, wide = Scan<num_scan_inputs = 1, body = turn (float carried, float[batch, 3] row)
        => (float after, float[batch, 3] less)
        { after = Identity(carried)  less = Mul(row, half) }
    >(none, rows)
    kept = Squeeze(wide, first)""",
}


def signals() -> Floats:
    return np.random.default_rng(4).normal(size=(3, 5, 3)).astype(np.float32)


def expected(tmp_path: Path) -> Floats:
    """What the graph without a body makes of them."""
    found, _ = steps(bundle_of(model_of(LEAKY), tmp_path, OPTIONS), signals())
    return found


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_keep_what_they_name_outside_of_them(tmp_path: Path, kind: str) -> None:
    first = "first = Constant<value = int64[1] {0}>()\n    "
    model = model_of(LEAKY.replace(LEAK, first + BODIES[kind]))
    assert kind in {node.op_type for node in model.graph.node}
    bundle = bundle_of(model, tmp_path, OPTIONS)
    found, _ = steps(bundle, signals())
    np.testing.assert_allclose(found, expected(tmp_path), rtol=1e-6)
    assert bundle.manifest.max_batch > 1


def test_functions_of_the_models_own_are_kept(tmp_path: Path) -> None:
    text = LEAKY.replace(LEAK, "kept = mine.Leak(h, half)")
    text = text.replace('["" : 17]', '["" : 17, "mine" : 1]')
    text += """
    <domain: "mine", opset_import: ["" : 17]>
    Leak (value, share) => (less) { less = Mul(value, share) }
    """
    bundle = bundle_of(model_of(text), tmp_path, OPTIONS)
    single = onnx.load_from_string(bundle.graphs["single.onnx"])
    assert [each.name for each in single.functions] == ["Leak"]
    assert {each.domain for each in single.opset_import} == {"", "mine"}
    found, _ = steps(bundle, signals())
    np.testing.assert_array_equal(found, expected(tmp_path))


def test_a_model_may_use_none_of_onnxs_own_operators(tmp_path: Path) -> None:
    head, nodes = LEAKY.split("{", 1)
    call = "{ y, hn = mine.Leaky(x, h) }"
    function = f"""
    <domain: "mine", opset_import: ["" : 17]>
    Leaky (x, h) => (y, hn) {{{nodes}"""
    model = model_of(head.replace('["" : 17]', '["" : 17, "mine" : 1]') + call + function)
    (mine,) = [each for each in model.opset_import if each.domain == "mine"]
    del model.opset_import[:]
    model.opset_import.append(mine)
    found, _ = steps(bundle_of(model, tmp_path, OPTIONS), signals())
    np.testing.assert_array_equal(found, expected(tmp_path))


def test_operators_of_onnxruntime_alone_are_kept(tmp_path: Path) -> None:
    model = model_of(LEAKY)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    last = model.graph.node[-1]
    last.op_type, last.domain = "QuickGelu", "com.microsoft"
    found, _ = steps(bundle_of(model, tmp_path, OPTIONS), signals())
    _, (state,) = steps(bundle_of(model_of(LEAKY), tmp_path, OPTIONS), signals())
    np.testing.assert_allclose(found[:, -1], state / (1 + np.exp(-1.702 * state)), rtol=1e-5)


@pytest.mark.parametrize(("opset", "version"), [(11, 3), (12, 6), (13, 7), (21, 10)])
def test_the_models_opset_and_version_are_kept(tmp_path: Path, opset: int, version: int) -> None:
    model = model_of(LEAKY)
    model.opset_import[0].version, model.ir_version = opset, version
    bundle = bundle_of(model, tmp_path, OPTIONS)
    for name in ("single.onnx", "step.onnx"):
        graph = onnx.load_from_string(bundle.graphs[name])
        assert (graph.opset_import[0].version, graph.ir_version) == (opset, version)
    found, _ = steps(bundle, signals())
    np.testing.assert_array_equal(found, expected(tmp_path))


def test_an_input_with_a_value_of_its_own_needs_no_other(tmp_path: Path) -> None:
    model = model_of(LEAKY)
    del model.graph.node[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    model.graph.input.append(helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT, []))
    found, _ = steps(bundle_of(model, tmp_path, OPTIONS), signals())
    np.testing.assert_array_equal(found, expected(tmp_path))


@pytest.mark.parametrize(
    ("kind", "shape", "value"),
    [("float", "", "0.5"), ("float", "[1, 3]", "0.5"), ("float", "[batch, 3]", "0.5,0.5,0.5")],
)
def test_a_constant_takes_the_shape_of_its_input(
    tmp_path: Path, kind: str, shape: str, value: str
) -> None:
    text = LEAKY.replace(") => (", f", {kind}{shape} half) => (")
    text = text.replace("half = Constant<value = float {0.5}>()", "")
    bundle = bundle_of(model_of(text), tmp_path, f"{OPTIONS} --const half={value}")
    found, _ = steps(bundle, signals())
    np.testing.assert_array_equal(found, expected(tmp_path))


def test_step_onnx_takes_a_step_as_single_onnx_does(tmp_path: Path) -> None:
    """The server falls back to it for a bundle without single.onnx."""
    bundle = bundle_of(model_of(LEAKY), tmp_path, OPTIONS)
    graphs = {name: text for name, text in bundle.graphs.items() if name != "single.onnx"}
    found, states = steps(replace(bundle, graphs=graphs), signals())
    usual, others = steps(bundle, signals())
    np.testing.assert_array_equal(found, usual)
    np.testing.assert_array_equal(states[0], others[0])
