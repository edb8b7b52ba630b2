"""Looks through an ONNX model before onnxruntime does: `check` refuses what could do harm.

A graph computes, and does nothing else: it names no file, no operator of unknown origin, and no
size that its bytes do not hold. Sizes may follow from those of what comes in and from constants,
never from values, so that no caller's number makes a run endless or huge. What a graph costs within
that is found by running it under limits (`engine.probe`).

It is a reader of our own and not the package onnx: that would add 55 MB to the image and native
code that parses what nobody has checked yet, and it passes over fields that it does not know.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from server.bundle import proto
from server.bundle.proto import Malformed, Message
from server.bundle.tensors import CONSTANT, FEW, SIZES, VALUES, Tensor, constant
from server.bundle.tensors import Unsound as Unsound  # callers know it from here

MAX_BYTES = 2**31 - 1  # ONNX's own limit
MAX_NODES, MAX_FOLDED, MAX_DEPTH = 20_000, 1_000, 16
MAX_SIZE = 2**26  # values that one constant asks an operator to make
MAX_TIMES, MAX_WORK = 65_536, 1_000_000  # a Loop's turns; operators, times the turns around them
MAX_ATTRIBUTE = 2**24

STANDARD = ("", "ai.onnx")
MICROSOFT = {
    "BiasGelu", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FastGelu",
    "FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "MatMulInteger16",
    "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearAdd", "QLinearConcat",
    "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
    "QLinearWhere", "QuantizeLinear", "QuickGelu", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "TransposeMatMul",
}  # fmt: skip
"""Of onnxruntime's own operators those that fused and quantised networks have: they compute."""

GROWING: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2),
    "ConstantOfShape": (0,), "DFT": (1,), "Expand": (1,), "HammingWindow": (0,),
    "HannWindow": (0,), "Loop": (0,), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1), "OneHot": (1,),
    "Pad": (1,), "Range": (0, 1, 2), "Resize": (2, 3), "STFT": (1, 3), "Tile": (1,),
    "Upsample": (1,),
}  # fmt: skip
"""Operators whose output or work is as large as the numbers in these inputs say."""
BRANCHING = {"If", "Loop", "Scan"}
KEEPING = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}  # the numbers, if not the shape
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
          "RandomUniformLike"}  # fmt: skip
PRODUCTS = {
    "Conv", "ConvInteger", "ConvTranspose", "DFT", "DeformConv", "Det", "Einsum", "GRU", "Gemm",
    "LSTM", "MatMul", "MatMulInteger", "NonMaxSuppression", "QLinearConv", "QLinearMatMul", "RNN",
    "STFT",
}  # fmt: skip
"""Of constants alone onnxruntime would compute them while it loads, for as long as that takes."""

Tensors = MutableMapping[str, Tensor]
Outputs = list[Tensor]


def check(model: bytes) -> None:
    """Look at all of a model.

    Raises:
        Unsound: it is malformed, names data in other files, has operators that are not known, says
            sizes that its bytes do not hold, or could grow or run without end.
    """
    if len(model) > MAX_BYTES:
        raise Unsound(f"has {len(model):,} bytes, more than {MAX_BYTES:,}")
    if model[4:8] == b"ORTM":
        raise Unsound("is of onnxruntime's own format; ONNX is what is served")
    try:
        _Walk(proto.read(model)).whole()
    except Malformed as error:
        raise Unsound(f"{error}; it is no ONNX model that is known here") from error


@dataclass
class _Walk:
    model: Message
    nodes: int = 0
    folded: int = 0
    work: int = 0
    turns: int = 1  # of the Loops around
    loops: int = 0
    functions: dict[tuple[str, str, str], Message] = field(default_factory=dict)

    def whole(self) -> None:
        if "training_info" in self.model:
            raise Unsound("holds graphs for training")
        if any(each.get("key") == "ort_config" for each in self.model.get("metadata_props", ())):
            raise Unsound("holds settings for onnxruntime")
        if not self.model.get("graph", {}).get("node"):
            raise Unsound("holds no graph")
        self._list_functions()
        for function in self.functions.values():  # those that nobody calls, too
            self._call(function, [], 0)
            self.nodes = self.folded = self.work = 0
        self._graph(self.model["graph"], {}, VALUES, 0)

    def _list_functions(self) -> None:
        for each in self.model.get("functions", ()):
            key = _domain(each), each.get("name", ""), each.get("overload", "")
            if key[0] in (*STANDARD, "com.microsoft") or key in self.functions:
                raise Unsound(f"defines {_named(*key[:2])} anew")
            self.functions[key] = each

    def _graph(self, graph: Message, outer: Tensors, given: int, depth: int) -> Outputs:
        """What the outputs are, where the inputs are of the origin `given`."""
        if "sparse_initializer" in graph:
            raise Unsound("holds sparse tensors")
        known: Tensors = ChainMap({}, outer)
        for edge in graph.get("input", ()):
            known[edge.get("name", "")] = Tensor(given)
        for tensor in graph.get("initializer", ()):
            known[tensor.get("name", "")] = constant(tensor)
        self._run(graph.get("node", ()), known, depth)
        return [_of(known, each.get("name", "")) for each in graph.get("output", ())]

    def _call(self, function: Message, given: Outputs, depth: int) -> Outputs:
        """A function's outputs; what it is not given is of sizes."""
        names = function.get("input", [])
        rest = [Tensor(SIZES)] * (len(names) - len(given))
        known: Tensors = dict(zip(names, [*given, *rest], strict=False))
        for attribute in function.get("attribute_proto", ()):
            self._attribute(attribute, "Constant")
            if "g" in attribute or "graphs" in attribute:
                raise Unsound("has graphs in the attributes of a function")
        self._run(function.get("node", ()), known, depth)
        return [_of(known, name) for name in function.get("output", ())]

    def _run(self, nodes: Sequence[Message], known: Tensors, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Unsound(f"is nested deeper than {MAX_DEPTH} graphs or functions")
        for node in nodes:
            self.nodes += 1
            self.work += self.turns
            if self.nodes > MAX_NODES or self.work > MAX_WORK:
                raise Unsound(
                    f"has more than {MAX_NODES:,} operators, functions written out, or than "
                    f"{MAX_WORK:,}, Loops written out"
                )
            names = node.get("output", [])
            found = self._node(node, known, depth)
            found += [found[-1] if found else Tensor(VALUES)] * (len(names) - len(found))
            known.update(zip(names, found, strict=False))

    def _node(self, node: Message, known: Tensors, depth: int) -> Outputs:
        """A node's outputs; all that are not listed are as the last."""
        op, domain = node.get("op_type", ""), _domain(node)
        for attribute in node.get("attribute", ()):
            self._attribute(attribute, op)
        given = [_of(known, name) for name in node.get("input", ())]
        bodies = _bodies(node)
        if bool(bodies) != (op in BRANCHING and domain in STANDARD):
            raise Unsound(f"has {_named(domain, op)} with graphs where none belong, or without any")
        function = self.functions.get((domain, op, node.get("overload", "")))
        if function is not None:
            return self._call(function, given, depth + 1)
        if domain not in STANDARD and not (domain == "com.microsoft" and op in MICROSOFT):
            raise Unsound(f"has the operator {_named(domain, op)}, which is not known here")
        if op == "Constant":
            return [_from_attributes(node)]
        origin = max((each.origin for each in given), default=CONSTANT)
        _check_growth(op, node, given)
        self._check_folding(op, origin)
        if bodies:
            turns = (given[0].numbers or (1,))[0] if op == "Loop" else 1
            return [self._bodies(op, bodies, known, origin, turns, depth + 1)]
        if op in ("Shape", "Size"):
            return [Tensor(min(origin, SIZES))]
        numbers = given[0].numbers if op in KEEPING and given else None
        return [Tensor(VALUES if op in RANDOM else origin, numbers)]

    def _bodies(
        self,
        op: str,
        bodies: Sequence[Message],
        known: Tensors,
        origin: int,
        turns: int,
        depth: int,
    ) -> Tensor:
        """What If, Loop or Scan gives. What a body gives may come in again at its next turn, so it
        is looked at until that adds nothing."""
        around = self.turns, self.loops
        self.turns, self.loops = self.turns * max(turns, 1), self.loops + (op != "If")
        if self.loops > 1:
            raise Unsound("has a loop within a loop")
        for _ in (SIZES, VALUES):
            found = [each for body in bodies for each in self._graph(body, known, origin, depth)]
            worst = max((each.origin for each in found), default=origin)
            if worst <= origin:
                break
            origin = worst
        self.turns, self.loops = around
        return Tensor(origin)

    def _check_folding(self, op: str, origin: int) -> None:
        if origin != CONSTANT:
            return
        self.folded += 1
        if op in PRODUCTS:
            raise Unsound(f"has {op} of constants alone; fold it when you export")
        if self.folded > MAX_FOLDED:
            raise Unsound(f"has more than {MAX_FOLDED:,} operators on constants alone")

    def _attribute(self, attribute: Message, op: str) -> None:
        """What it holds but for graphs, which are looked at where they run."""
        name = attribute.get("name", "")
        if "sparse_tensor" in attribute or "sparse_tensors" in attribute:
            raise Unsound(f"holds sparse tensors in {op}")
        for tensor in (*attribute.get("tensors", ()), *_present(attribute, "t")):
            constant(tensor)
        if op in ("Constant", "Slice") or name == "seed":
            return
        numbers = [*_present(attribute, "i"), *proto.whole_numbers(attribute.get("ints", []))]
        if any(abs(number) > MAX_ATTRIBUTE for number in numbers):
            raise Unsound(f"has {op} with {name[:100]!r} beyond {MAX_ATTRIBUTE:,}")


def _check_growth(op: str, node: Message, given: Outputs) -> None:
    """That no caller's values say how large its output or its work is, and no constant says too
    much."""
    names = node.get("input", [])
    if op == "Loop" and not (names and names[0]):
        raise Unsound("has a Loop that says no number of turns")
    at = GROWING.get(op, ())
    asked = [given[k] for k in at if k < len(given) and names[k]]
    if op == "Loop" and asked[0].origin == CONSTANT and asked[0].numbers is None:
        raise Unsound("has a Loop whose number of turns is computed from constants")
    if any(each.origin == VALUES for each in asked):
        raise Unsound(f"has {op}, whose size depends on values and not on sizes")
    numbers = [abs(each) for tensor in asked for each in tensor.numbers or ()]
    limit = MAX_TIMES if op == "Loop" else MAX_SIZE
    size = prod(numbers) if op in ("ConstantOfShape", "Expand", "Tile") else max(numbers, default=0)
    if size > limit:
        raise Unsound(f"has {op} to {size:,}, more than {limit:,}")
    shape = [a for a in node.get("attribute", ()) if op in RANDOM and a.get("name") == "shape"]
    if prod(abs(n) for a in shape for n in proto.whole_numbers(a.get("ints", []))) > MAX_SIZE:
        raise Unsound(f"has {op} of more than {MAX_SIZE:,} values")


def _bodies(node: Message) -> Sequence[Message]:
    attributes = node.get("attribute", ())
    return [g for each in attributes for g in (*_present(each, "g"), *each.get("graphs", ()))]


def _from_attributes(node: Message) -> Tensor:
    """A Constant's output."""
    for attribute in node.get("attribute", ()):
        if "t" in attribute:
            return constant(attribute["t"])
        if "i" in attribute:
            return Tensor(CONSTANT, (attribute["i"],))
        if "ints" in attribute:
            few = proto.count(attribute["ints"], "int64") <= FEW
            return Tensor(CONSTANT, tuple(proto.whole_numbers(attribute["ints"])) if few else None)
    return Tensor(CONSTANT)


def _of(known: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor by its name; an input left out says nothing, and one nobody knows is anything."""
    return known.get(name, Tensor(VALUES)) if name else Tensor(CONSTANT)


def _domain(message: Message) -> str:
    return str(message.get("domain", ""))


def _named(domain: str, op: str) -> str:
    return repr(f"{domain}.{op}"[:100])


def _present(message: Message, name: str) -> tuple[Any, ...]:
    return (message[name],) if name in message else ()
