"""The ways to write a network's graphs beside each other: what an export chooses among.

On CUDA single steps are captured, and the ways are those of `single.cuda.onnx`.

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
FOR_CUDA = (Form(packed=False), Form(cuda=GEMM), Form(OPERATOR, OPERATOR, cuda=OPERATOR))
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
    on_cuda = device.kind == "cuda"
    forms = (*FORMS, *FOR_CUDA) if on_cuda else FORMS
    for form, times in measure(shape.weights(), forms, device).items():
        cells = [times.get((batch, t)) for t in (1, CHUNK) for batch in BATCHES]
        told = " | ".join("-" if each is None else f"{each * 1e6:,.0f}" for each in cells)
        name = _name(form, form.cuda + " apart" * (not form.packed) if on_cuda else form.single)
        print(f"| {name} | {told} |")


def _name(form: Form, single: str) -> str:
    return f"{single} / {form.step}, opset {form.opset}, {form.precision}"


if __name__ == "__main__":
    main()
