"""A layer over time by a loop (ONNX's Scan) around one cell: what the operators cannot write."""

from __future__ import annotations

from training.graphs.builder import BOOL, FLOAT, Builder, value
from training.graphs.cells import Cell, State


def over_time(b: Builder, cell: Cell, x: str, valid: str, state: State) -> tuple[str, State]:
    """x [T, B, I], valid bool [T, B, 1] -> h of every step [T, B, P] and the state after.

    Where a step is not valid, h and c stay as they were.
    """
    layer, k = cell.layer, cell.k
    rows = b.add("Reshape", x, b.integers(-1, layer.w.shape[1]))
    given = cell.from_input(b, rows)
    shape = b.add("Shape", x, end=2)
    shape = b.add("Concat", shape, b.integers(len(layer.w)), axis=0)
    given = b.add("Reshape", given, shape)
    names = [f"last_{name}{k}" for name in state]
    b.add(
        "Scan",
        *state.values(),
        given,
        valid,
        outputs=[*names, f"all{k}"],
        body=_body(b, cell),
        num_scan_inputs=2,
    )
    return f"all{k}", dict(zip(state, names, strict=True))


def _body(b: Builder, cell: Cell) -> object:
    """One step: the state's tensors, given [B, G·H] and valid [B, 1] in; state and h out."""
    inner = b.body(f"loop{cell.k}_")
    p, layer = inner.prefix, cell.layer
    before = {name: f"{p}{name}" for name, _ in layer.states}
    after = cell.step(inner, f"{p}given", before)
    outputs = {name: f"{p}{name}_next" for name in before}
    for name, each in outputs.items():
        inner.add("Where", f"{p}valid", after[name], before[name], outputs=[each])
    inner.add("Identity", outputs["h"], outputs=[f"{p}every"])
    widths = dict(layer.states)
    inputs = [value(each, FLOAT, "B", widths[name]) for name, each in before.items()]
    inputs += [value(f"{p}given", FLOAT, "B", len(layer.w)), value(f"{p}valid", BOOL, "B", 1)]
    results = [value(each, FLOAT, "B", widths[name]) for name, each in outputs.items()]
    results.append(value(f"{p}every", FLOAT, "B", layer.width))
    return inner.graph(f"step{cell.k}", inputs, results)
