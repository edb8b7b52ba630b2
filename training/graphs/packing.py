"""A graph that takes all states in one tensor, made into one that takes each by itself.

Only the engine on CUDA has states side by side. So that what is proven there can be proven
anywhere, they are laid together before the graph's nodes and taken apart behind them: all rows, at
every step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.graphs.builder import value

STATES, WIDTHS = "states", "states.widths"


def apart(graph: bytes, states: Iterable[tuple[str, int]]) -> bytes:
    """The same steps over arenas of these names and widths; the graph itself, if that is what it
    takes."""
    model = onnx.load_from_string(graph)
    given = [each.name for each in model.graph.input]
    if STATES not in given:
        return graph
    kind = model.graph.input[given.index(STATES)].type.tensor_type.elem_type
    widths = {f"state.{name}": width for name, width in states}
    after = [f"{name}.next" for name in widths]
    sizes = numpy_helper.from_array(np.array([*widths.values()], np.int64), WIDTHS)
    model.graph.initializer.append(sizes)
    model.graph.node.insert(0, helper.make_node("Concat", [*widths], [STATES], axis=1))
    model.graph.node.append(helper.make_node("Split", [f"{STATES}.next", WIDTHS], after, axis=1))
    for edges, suffix in ((model.graph.input, ""), (model.graph.output, ".next")):
        kept = [each for each in edges if each.name != STATES + suffix]
        del edges[:]
        edges.extend(kept)
        edges.extend(value(each + suffix, kind, "N", width) for each, width in widths.items())
    return bytes(model.SerializeToString(deterministic=True))
