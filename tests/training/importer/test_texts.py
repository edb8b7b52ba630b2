"""Tensors are found by their exact names, whatever these hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.training.importer.graphs import LEAKY, bundle_of, model_of, steps


def test_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    alike (float[batch, 1] x, float[batch, 1] h, float[batch, 1] h2, float[batch, 1] h22)
        => (float[batch, 1] y, float[batch, 1] h2n, float[batch, 1] h22n, float[batch, 1] hn)
    {
        two = Constant<value = float {2}>()
        hn = Add(h, x)
        h2n = Sub(h2, x)
        twice = Mul(two, x)
        h22n = Add(h22, twice)
        both = Mul(h2n, h22n)
        y = Add(both, hn)
    }"""
    options = "--state h=hn --state h2=h2n --state h22=h22n --input x --output y"
    bundle = bundle_of(model_of(text), tmp_path, options)
    given = np.ones((1, 3, 1), np.float32)
    found, states = steps(bundle, given)
    assert [float(state[0, 0]) for state in states] == [3, -3, 6]
    assert found[0, :, 0].tolist() == [-1, -6, -15]


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    return model


@pytest.mark.parametrize(
    ("names", "option"),
    [
        ({"h": "h:0", "hn": "hn:0"}, "h:0=hn:0"),
        ({"h": "h:0", "hn": "hn:0"}, "h:0=hn:0:0"),
        ({"h": "a=b", "hn": "c==d"}, "a=b=c==d"),
        ({"h": "state", "hn": "state.next"}, "state=state.next"),
        ({"h": "slots", "hn": "fresh", "kept": "state.slots.next"}, "slots=fresh"),
    ],
)
def test_names_may_hold_colons_and_equals_signs_and_be_the_bundles_own(
    tmp_path: Path, names: dict[str, str], option: str
) -> None:
    given = np.random.default_rng(6).normal(size=(3, 5, 3)).astype(np.float32)
    expected, _ = steps(
        bundle_of(model_of(LEAKY), tmp_path, "--state h=hn --input x --output y"), given
    )
    model = renamed(model_of(LEAKY), names)
    bundle = bundle_of(model, tmp_path, f"--state {option} --input x --output y")
    assert bundle.manifest.states[0].name == names["h"]
    found, _ = steps(bundle, given)
    np.testing.assert_array_equal(found, expected)


def test_a_state_named_as_anothers_next_row_is_called_otherwise(tmp_path: Path) -> None:
    text = LEAKY.replace(") => (", ", float[batch, 3] g) => (float[batch, 3] gn, ")
    text = text.replace("y = Tanh(hn)", "gn = Add(g, x)\n    sum = Add(gn, hn)\n    y = Tanh(sum)")
    model = renamed(model_of(text), {"g": "h.next"})
    options = "--state h=hn --state h.next=gn --input x --output y"
    bundle = bundle_of(model, tmp_path, options)
    assert [state.name for state in bundle.manifest.states] == ["h", "h.next_"]
    found, _ = steps(bundle, np.full((1, 1, 3), 0.1, np.float32))
    np.testing.assert_allclose(found[0, 0], np.tanh(0.2), rtol=1e-6)
