"""Whatever an ONNX model may hold that does more than compute, it is refused with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import onnx_ml_pb2

from server.bundle import proto
from server.bundle.soundness import Unsound, check
from server.engine.device import Device
from server.engine.graph import GraphError, open_session
from tests.server.bundle.malicious import UNSOUND, graph, initializer_at, plain
from training.graphs.whole import PRECISIONS, graphs, usual_form
from training.network import random_network

CPU = Device("cpu")


@pytest.mark.parametrize("case", UNSOUND)
def test_what_could_do_harm_is_refused_and_named(case: str) -> None:
    make, says = UNSOUND[case]
    content = make().SerializeToString()
    with pytest.raises(Unsound) as refused:
        check(content)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 300
    with pytest.raises(GraphError, match="is unsound: it"):
        open_session(content, CPU, 1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_training_writes_is_sound(precision: str) -> None:
    network = random_network(5, 12, 2, 3, seed=7, softmax=False)
    for content in graphs(network, usual_form(network, precision)).values():
        check(content)


def test_sizes_of_what_comes_in_may_say_how_large_something_is() -> None:
    check(graph("s = Shape(x) y = Expand(x, s)").SerializeToString())
    body = "<body = a (int64 i, bool k, float[b, 1] p) => (bool k2, float[b, 1] p2)"
    check(
        graph(
            "s = Shape(x) z = Constant<value = int64 {0}>() n = Gather(s, z) "
            "c = Constant<value = bool {1}>() "
            f"y = Loop(n, c, x) {body} {{ k2 = Identity(k) p2 = Neg(p) }}>"
        ).SerializeToString()
    )


def test_a_value_that_comes_in_through_a_loop_s_body_is_still_a_value() -> None:
    """At the first turn `s` is of sizes; the body makes it one of the caller's values."""
    body = (
        "<body = a (int64 i, bool k, int64[2] s, float[b, 1] p) => "
        "(bool k2, int64[2] s2, float[b, 1] p2) { k2 = Identity(k) v = Cast<to = 7>(p) "
        "s2 = Add(s, v) p2 = Expand(p, s) }>"
    )
    text = (
        "n = Constant<value = int64 {3}>() c = Constant<value = bool {1}>() h = Shape(x) "
        f"e, y = Loop(n, c, h, x) {body}"
    )
    with pytest.raises(Unsound, match="Expand, whose size depends on values"):
        check(graph(text).SerializeToString())


def test_onnxruntime_s_own_format_is_refused_whatever_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.ort"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(plain().SerializeToString(), options)
    content = path.read_bytes()
    assert onnxruntime.InferenceSession(content).get_inputs()[0].name == "x"
    with pytest.raises(Unsound, match="onnxruntime's own format"):
        check(content)
    with pytest.raises(Exception, match="protobuf"):  # and onnxruntime is told to take it for ONNX
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.load_model_format", "ONNX")
        onnxruntime.InferenceSession(content, options)


def test_a_field_that_is_not_known_is_refused_where_protobuf_passes_over_it() -> None:
    model = plain()
    unknown = model.SerializeToString() + b"\xfa\x3e\x01x"  # field 1007
    assert onnx.load_from_string(unknown).graph.node[0].op_type == "Constant"
    with pytest.raises(Unsound, match="unknown field 1007 in Model"):
        check(unknown)


def test_a_graph_that_comes_twice_is_refused_where_protobuf_merges_it() -> None:
    twice = plain().SerializeToString() + initializer_at("etc/passwd")().SerializeToString()
    with pytest.raises(Unsound, match="twice"):
        check(twice)


def test_every_field_that_is_read_is_onnx_s_own_of_that_name_and_kind() -> None:
    kinds = {1: "fixed64", 2: "fixed32", 3: "int64", 4: "int64", 5: "int32", 9: "text",
             12: "bytes", 14: "int32"}  # fmt: skip
    for message, fields in proto.FIELDS.items():
        outer = message.split(".")[0]
        found = onnx_ml_pb2.DESCRIPTOR.message_types_by_name
        described = found.get(f"{outer}Proto") or found[outer]
        for part in message.split(".")[1:]:
            described = described.nested_types_by_name[part]
        for number, (name, kind, repeated) in fields.items():
            field = described.fields_by_number[number]
            assert (field.name, field.is_repeated) == (name, repeated), (message, number)
            if field.message_type is None:
                assert kinds[field.type] == kind, (message, name)
            elif kind != "bytes":  # which is refused wherever it occurs
                whole = field.message_type.full_name.removeprefix("onnx.").replace("Proto", "")
                assert whole == kind, (message, name)


def test_the_server_itself_needs_no_onnx() -> None:
    code = "import sys; import server.app; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_large_weight_is_not_copied_to_be_looked_at() -> None:
    model = graph("y = Mul(x, w)")
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((1 << 20, 1), np.float32), "w")
    )
    content = model.SerializeToString()
    (tensor,) = proto.read(content)["graph"]["initializer"]
    assert isinstance(tensor["raw_data"], memoryview)
    assert tensor["raw_data"].obj is content
    check(content)
