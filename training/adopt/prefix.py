"""Renames everything in somebody's graph, so that it can stand beside the bundle's own names."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

PREFIX = "model/"


def prefixed(graph: GraphProto) -> GraphProto:
    """A copy whose tensors and nodes all begin with `PREFIX`, those within If, Loop and Scan too.

    A body may name what lies outside of it; as every name changes alike, it still does. What is
    only declared (shapes of intermediate values, annotations) is left out: onnxruntime infers it,
    and a declared size must not be taken for one of the bundle's.
    """
    copy = GraphProto()
    copy.CopyFrom(graph)
    _rename(copy)
    return copy


def _rename(graph: GraphProto) -> None:
    for node in graph.node:
        _rename_node(node)
    for tensor in graph.initializer:
        tensor.name = PREFIX + tensor.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = PREFIX + sparse.values.name
    for value in (*graph.input, *graph.output):
        _rename_value(value)
    del graph.value_info[:]
    del graph.quantization_annotation[:]


def _rename_node(node: NodeProto) -> None:
    node.name = PREFIX + node.name if node.name else ""
    node.input[:] = _names(node.input)
    node.output[:] = _names(node.output)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            _rename(attribute.g)
        for body in attribute.graphs:
            _rename(body)


def _names(names: Iterable[str]) -> list[str]:
    """An empty name is an input or output left out, and stays empty."""
    return [name and PREFIX + name for name in names]


def _rename_value(value: ValueInfoProto) -> None:
    value.name = PREFIX + value.name
    for size in value.type.tensor_type.shape.dim:
        if size.dim_param:
            size.dim_param = PREFIX + size.dim_param
