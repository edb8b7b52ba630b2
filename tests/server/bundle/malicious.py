"""ONNX models that somebody wrote to do harm, and whole bundles around them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

HEAD = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>\n'
EDGES = "g (float[b, 1] x) => (float[b, 1] y)"
LAUGHS = 12
_FUNCTION = '<domain: "mine", opset_import: ["" : 17]> f (a) => (z) { z = Neg(a) }'


def graph(nodes: str, functions: str = "") -> ModelProto:
    """From x [b, 1] to y, by nodes in onnx's own words."""
    return parser.parse_model(f"{HEAD}{EDGES} {{ {nodes} }}\n{functions}")


def plain() -> ModelProto:
    """One that nobody could object to."""
    return graph("half = Constant<value = float {0.5}>() y = Mul(x, half)")


def outside(location: str, name: str = "secret") -> TensorProto:
    """A tensor of 8 bytes that lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.INT64, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def initializer_at(location: str) -> Callable[[], ModelProto]:
    """A weight from there."""

    def make() -> ModelProto:
        model = graph("f = Cast<to = 1>(secret) y = Mul(x, f)")
        model.graph.initializer.append(outside(location))
        return model

    return make


def _constant_outside() -> ModelProto:
    model = plain()
    model.graph.node[0].attribute[0].t.CopyFrom(outside("etc/passwd"))
    return model


def _body_outside(kind: str) -> Callable[[], ModelProto]:
    texts = {
        "If": """c = Constant<value = bool {1}>() y = If(c) <
            then_branch = a () => (float[b, 1] p) { p = Mul(x, x) },
            else_branch = e () => (float[b, 1] q) { q = Add(x, x) }>""",
        "Loop": """n = Constant<value = int64 {2}>() c = Constant<value = bool {1}>()
            y = Loop(n, c, x) <body = a (int64 i, bool k, float[b, 1] p) =>
            (bool k2, float[b, 1] p2) { k2 = Identity(k) p2 = Add(p, p) }>""",
        "Scan": """s, y = Scan(x, x) <num_scan_inputs = 1, body = a (float[b, 1] p, float[1] q) =>
            (float[b, 1] p2, float[1] q2) { p2 = Identity(p) q2 = Identity(q) }>""",
    }

    def make() -> ModelProto:
        model = graph(texts[kind])
        (body, *_) = [a.g for a in model.graph.node[-1].attribute if a.HasField("g")]
        body.initializer.append(outside("../etc/passwd"))
        return model

    return make


def _function_outside() -> ModelProto:
    """In the default of a function's attribute, and nobody calls the function."""
    model = graph(
        "y = Identity(x)",
        '<domain: "mine", opset_import: ["" : 17]> f (a) => (z) '
        "{ k = Constant<value = float {1}>() z = Mul(a, k) }",
    )
    model.functions[0].node[0].attribute[0].t.CopyFrom(outside("etc/passwd"))
    return model


def _branch_by_name() -> ModelProto:
    """A call of a function with a graph that reads a file; the function gives it to its If."""
    model = graph("y = mine.f(x)", _FUNCTION)
    branch = helper.make_graph([], "a", [], [], [outside("etc/passwd")])
    model.graph.node[0].attribute.append(helper.make_attribute("b", branch))
    return model


def _branch_by_default() -> ModelProto:
    """The same, as what the function takes where it is given none."""
    model = graph("y = mine.f(x)", _FUNCTION)
    branch = helper.make_graph([], "a", [], [], [outside("etc/passwd")])
    model.functions[0].attribute_proto.append(helper.make_attribute("b", branch))
    return model


def _branch_of_none() -> ModelProto:
    """An If whose branches are attributes of the function around it."""
    model = graph("y = mine.f(x)", _FUNCTION)
    node = model.functions[0].node[0]
    node.op_type = "If"
    for name in ("then_branch", "else_branch"):
        node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH, ref_attr_name="b")
    return model


def _sparse() -> ModelProto:
    model = plain()
    sparse = model.graph.sparse_initializer.add(dims=[1 << 40])
    sparse.values.CopyFrom(outside("etc/passwd"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1]), "at"))
    return model


def _training() -> ModelProto:
    model = plain()
    model.training_info.add().initialization.initializer.append(outside("etc/passwd"))
    return model


def _domain(domain: str, op: str) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = plain()
        model.opset_import.append(helper.make_opsetid(domain, 1))
        model.graph.node[-1].op_type, model.graph.node[-1].domain = op, domain
        return model

    return make


def _weight(dims: list[int], raw: bytes, kind: int = TensorProto.FLOAT) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = graph("y = Mul(x, w)")
        tensor = TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw)
        model.graph.initializer.append(tensor)
        return model

    return make


def _two_data() -> ModelProto:
    model = _weight([1], b"\0" * 4)()
    model.graph.initializer[0].float_data.append(1.0)
    return model


def _deep() -> ModelProto:
    text = "p = Identity(x)"
    for _ in range(20):
        other = "e () => (float[b, 1] q) { q = Neg(x) }"
        body = f"a () => (float[b, 1] p) {{ {text} }}"
        text = f"p = If(c) <then_branch = {body}, else_branch = {other}>"
    return graph("c = Constant<value = bool {1}>() " + text + " y = Neg(p)")


def _many() -> ModelProto:
    names = [f"t{k}" for k in range(20_001)]
    model = graph("y = Identity(t20000)")
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in zip(["x", *names], names, strict=False)]
    nodes.append(model.graph.node[0])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _laughs() -> ModelProto:
    """Functions that each call the next one four times."""
    head = '<domain: "mine", opset_import: ["" : 17, "mine" : 1]>'
    functions = [
        f"{head} f{k} (a) => (z) {{ {' '.join(f'z{n} = mine.f{k + 1}(a)' for n in range(3))} "
        f"z = mine.f{k + 1}(a) }}\n"
        for k in range(LAUGHS)
    ]
    last = f"{head} f{LAUGHS} (a) => (z) {{ z = Neg(a) }}"
    return graph("y = mine.f0(x)", "".join(functions) + last)


def _itself() -> ModelProto:
    text = '<domain: "mine", opset_import: ["" : 17, "mine" : 1]> f (a) => (z) { z = mine.f(a) }'
    return graph("y = mine.f(x)", text)


def _redefined() -> ModelProto:
    model = graph(
        "y = mine.f(x)", '<domain: "mine", opset_import: ["" : 17]> f (a) => (z) { z = Neg(a) }'
    )
    model.functions[0].domain, model.functions[0].name = "", "Mul"
    return model


def _settings() -> ModelProto:
    model = plain()
    model.metadata_props.add(key="ort_config", value="{}")
    return model


LOOP = """c = Constant<value = bool {1}>() y = Loop(n, c, x) <body = a (int64 i, bool k,
    float[b, 1] p) => (bool k2, float[b, 1] p2) { k2 = Identity(k) p2 = Neg(p) }>"""
BIG = "n = Constant<value = int64[2] {1048576, 1048576}>() "

UNSOUND: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "data of the host": (initializer_at("etc/passwd"), "'secret' from another file"),
    "data above": (initializer_at("../etc/passwd"), "'secret' from another file"),
    "data by its path": (initializer_at("/etc/passwd"), "'secret' from another file"),
    "data of the process": (initializer_at("*/_ORT_MEM_ADDR_/*"), "'secret' from another file"),
    "a Constant's data": (_constant_outside, "from another file"),
    "data in If": (_body_outside("If"), "'secret' from another file"),
    "data in Loop": (_body_outside("Loop"), "'secret' from another file"),
    "data in Scan": (_body_outside("Scan"), "'secret' from another file"),
    "data in a function": (_function_outside, "from another file"),
    "data in a call's graph": (_branch_by_name, "'mine.f' with graphs where none belong"),
    "data in a default graph": (_branch_by_default, "graphs in the attributes of a function"),
    "a graph from elsewhere": (_branch_of_none, "'.If' with graphs where none belong, or without"),
    "sparse data": (_sparse, "holds sparse tensors"),
    "data for training": (_training, "holds graphs for training"),
    "an unknown domain": (_domain("ai.onnx.contrib", "PyOp"), "'ai.onnx.contrib.PyOp'"),
    "a compiled context": (_domain("com.microsoft", "EPContext"), "'com.microsoft.EPContext'"),
    "another's function": (_domain("mine", "Missing"), "the operator 'mine.Missing'"),
    "Mul anew": (_redefined, "defines '.Mul' anew"),
    "settings": (_settings, "holds settings for onnxruntime"),
    "too few bytes": (_weight([1 << 40], b"\0" * 4), "with 4 bytes, where its shape says 4,398"),
    "too many bytes": (_weight([1], b"\0" * 8), "with 8 bytes, where its shape says 4"),
    "sizes that overflow": (
        _weight([1 << 32, 1 << 32], b""),
        "its shape says 18,446,744,073,709,551,616",
    ),
    "a size below 0": (_weight([-1], b"\0" * 4), "of the impossible shape [-1]"),
    "an unknown type": (_weight([1], b"\0" * 4, 77), "of the type 77"),
    "texts": (_weight([1], b"", TensorProto.STRING), "of the type 8"),
    "data twice": (_two_data, "data of more than one kind"),
    "a huge constant": (
        lambda: graph(BIG + "m = ConstantOfShape(n) r = ReduceSum<keepdims = 0>(m) y = Mul(x, r)"),
        "ConstantOfShape to 1,099,511,627,776",
    ),
    "a huge copy": (lambda: graph(BIG + "y = Expand(x, n)"), "Expand to 1,099,511,627,776"),
    "a huge tile": (lambda: graph(BIG + "y = Tile(x, n)"), "Tile to 1,099,511,627,776"),
    "a long range": (
        lambda: graph(
            "a = Constant<value = int64 {0}>() b = Constant<value = int64 {1}>() "
            "n = Constant<value = int64 {1099511627776}>() r = Range(a, n, b) "
            "f = Cast<to = 1>(r) s = ReduceSum<keepdims = 0>(f) y = Mul(x, s)"
        ),
        "Range to 1,099,511,627,776",
    ),
    "a size that callers send": (
        lambda: graph("n = Cast<to = 7>(x) s = Squeeze(n) t = Abs(s) y = Expand(x, t)"),
        "Expand, whose size depends on values",
    ),
    "turns that callers send": (
        lambda: graph("f = Cast<to = 7>(x) n = Squeeze(f) " + LOOP),
        "Loop, whose size depends on values",
    ),
    "too many turns": (
        lambda: graph("n = Constant<value = int64 {9223372036854775807}>() " + LOOP),
        "Loop to 9,223,372,036,854,775,807",
    ),
    "many turns, hidden": (
        lambda: graph("m = Constant<value = int64 {99999999}>() n = Identity(m) " + LOOP),
        "Loop to 99,999,999",
    ),
    "computed turns": (
        lambda: graph("m = Constant<value = int64 {9999}>() n = Mul(m, m) " + LOOP),
        "a Loop whose number of turns is computed from constants",
    ),
    "no number of turns": (
        lambda: graph(LOOP.replace("Loop(n,", 'Loop("",')),
        "a Loop that says no number of turns",
    ),
    "much work": (
        lambda: graph(
            "n = Constant<value = int64 {65536}>() "
            + LOOP.replace("p2 =", " ".join(f"t{k} = Neg(p)" for k in range(20)) + " p2 =")
        ),
        "Loops written out",
    ),
    "a loop in a loop": (
        lambda: graph(
            "n = Constant<value = int64 {65536}>() c = Constant<value = bool {1}>() "
            "y = Loop(n, c, x) <body = a (int64 i, bool k, float[b, 1] p) => "
            "(bool k2, float[b, 1] p2) { k2 = Identity(k) p2 = Loop(n, c, p) <body = d (int64 j, "
            "bool l, float[b, 1] q) => (bool l2, float[b, 1] q2) { l2 = Identity(l) q2 = Neg(q) }>"
            " }>"
        ),
        "a loop within a loop",
    ),
    "products of constants": (
        lambda: graph("w = Constant<value = float[1, 1] {1}>() v = MatMul(w, w) y = Mul(x, v)"),
        "MatMul of constants alone",
    ),
    "a huge attribute": (
        lambda: graph("y = ReduceSum<keepdims = 1099511627776>(x)"),
        "ReduceSum with 'keepdims' beyond",
    ),
    "deep": (_deep, "nested deeper than"),
    "many operators": (_many, "more than 20,000 operators"),
    "functions that double": (_laughs, "more than 20,000 operators"),
    "a function that calls itself": (_itself, "nested deeper than 16"),
}


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a bundle, and its digest into the manifest."""
    (folder / name).write_bytes(content)
    file = folder / "model.json"
    manifest = json.loads(file.read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    file.write_text(json.dumps(manifest))
