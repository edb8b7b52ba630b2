"""The ways to write a network's graphs beside each other: what an export chooses among.

`python -m benchmarks.forms`; medians of interleaved runs, so that noise hits all alike. Where there
is a GPU it measures that, unless told `--device cpu`.
"""

from __future__ import annotations

import argparse

import onnxruntime

from benchmarks.models import H64, Shape
from server.engine.device import Device, choose
from training.graphs.choice import BATCHES, CHUNK, measure
from training.graphs.whole import GEMM, OPERATOR, OPSETS, PRECISIONS, SCAN, Form

FORMS = (
    Form(),
    Form(OPERATOR, OPERATOR),
    Form(SCAN, GEMM),
    *(Form(opset=opset) for opset in OPSETS[1:]),
    *(Form(SCAN, GEMM, precision=precision) for precision in PRECISIONS[1:]),
)
SHAPES = (H64, Shape("2x256", 2, 256, 32))


def main() -> None:
    """Print microseconds a run of single steps, and of chunks of 8."""
    parser = argparse.ArgumentParser(prog="benchmarks.forms", description=__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    device = choose(parser.parse_args().device)
    print(f"on {device.name}, onnxruntime {onnxruntime.__version__}; µs a run by batch")
    for shape in SHAPES:
        _table(shape, device)


def _table(shape: Shape, device: Device) -> None:
    print(f"\n{shape.name}: {shape.layers} of {shape.hidden}, {shape.inputs} features\n")
    single = [f"single, {batch}" for batch in BATCHES]
    chunks = [f"chunks of {CHUNK}, {batch}" for batch in BATCHES]
    print(f"| form | {' | '.join(single + chunks)} |")
    print("|---|" + "--:|" * len(single + chunks))
    for form, times in measure(shape.weights(), FORMS, device).items():
        cells = [times.get((batch, t)) for t in (1, CHUNK) for batch in BATCHES]
        told = " | ".join("-" if each is None else f"{each * 1e6:,.0f}" for each in cells)
        print(f"| {_name(form)} | {told} |")


def _name(form: Form) -> str:
    return f"{form.single} / {form.step}, opset {form.opset}, {form.precision}"


if __name__ == "__main__":
    main()
