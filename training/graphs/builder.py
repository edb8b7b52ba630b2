"""Collects an ONNX graph's nodes and constants, and makes the model of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    checker,
    helper,
    numpy_helper,
)

IR_VERSION = 9
AXES_ARE_INPUTS = 13  # the first opset in which Unsqueeze takes its axes so
FLOAT, FLOAT16, INT32, INT64, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)


@dataclass
class Builder:
    """`add` names and returns a node's first output; constants are shared with bodies of loops.

    `opset` is the one that the nodes are written for, where it matters how.
    """

    prefix: str = ""
    opset: int = AXES_ARE_INPUTS
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def add(self, op: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node; outputs not named are numbered."""
        names = list(outputs) or [f"{self.prefix}{op.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A tensor stored in the graph, once a name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        """A constant int64 vector, as axes and indices are."""
        text = "_".join(map(str, values))
        return self.constant(f"integers_{text}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.constant(f"number_{value!r}", np.array(value, np.float32))

    def unsqueeze(self, x: str, *axes: int) -> str:
        """`x` with axes of 1 there; a Reshape would cost a small step a microsecond."""
        if self.opset < AXES_ARE_INPUTS:
            return self.add("Unsqueeze", x, axes=list(axes))
        return self.add("Unsqueeze", x, self.integers(*axes))

    def body(self, prefix: str) -> Builder:
        """For the graph within a loop's node."""
        return Builder(self.prefix + prefix, self.opset, constants=self.constants)

    def graph(
        self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> GraphProto:
        """The nodes as a body, whose constants are the model's."""
        return helper.make_graph(self.nodes, name, inputs, outputs)

    def model(
        self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], opset: int
    ) -> ModelProto:
        """The finished, checked model."""
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, name, inputs, outputs, constants)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, producer_name="tidegate")
        model.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(imports))
        checker.check_model(model)
        return model


def kind_of(dtype: str) -> int:
    """ONNX's number of a type that numpy names."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    """A graph's input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))
