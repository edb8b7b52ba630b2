"""The ways to write a network's graphs beside each other: what an export chooses among.

On CUDA single steps are captured, and the ways are those of `single.cuda.onnx`.

`python -m benchmarks.forms`; medians of interleaved runs, so that noise hits all alike. Where there
is a GPU it measures that, unless told `--device cpu`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import onnxruntime

from benchmarks.models import H64, Shape
from server.engine.device import Device, choose
from training.graphs.choice import BATCHES, CHUNK, measure, side_by_side
from training.graphs.stepping import serve
from training.graphs.whole import GEMM, OPERATOR, OPSETS, PRECISIONS, SCAN, Form
from training.network import with_random_linear

FORMS = (
    Form(),
    Form(single=GEMM),
    Form(OPERATOR, OPERATOR),
    Form(SCAN, GEMM),
    *(Form(opset=opset) for opset in OPSETS[1:]),
    *(Form(SCAN, GEMM, precision=precision) for precision in PRECISIONS[1:]),
)
LEAST_OF = 12  # rounds
FOR_CUDA = (Form(packed=False), Form(cuda=GEMM), Form(OPERATOR, OPERATOR, cuda=OPERATOR))
SHAPES = (H64, Shape("2x256", 2, 256, 32))


def main() -> None:
    """Print microseconds a run of single steps, and of chunks of 8."""
    parser = argparse.ArgumentParser(prog="benchmarks.forms", description=__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--lags", type=int, nargs="+", help="instead: the usual form beside linear paths of these"
    )
    arguments = parser.parse_args()
    device = choose(arguments.device)
    print(f"on {device.name}, onnxruntime {onnxruntime.__version__}; µs a run by batch")
    for shape in SHAPES:
        if arguments.lags:
            _paths(shape, arguments.lags, device)
        else:
            _table(shape, device)


def _paths(shape: Shape, lags: Sequence[int], device: Device) -> None:
    """The medians of whichever round the machine disturbed least: all are of the same runs."""
    print(f"\n{shape.name}: {shape.layers} of {shape.hidden}, {shape.inputs} features\n")
    plain = shape.weights()
    networks = [plain, *(with_random_linear(plain, count, 0) for count in lags)]
    engines = [serve(each, Form(), max(BATCHES), device) for each in networks]
    names = ["no linear path", *(f"{count} lags" for count in lags)]
    print(f"| steps a row, rows | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for chunk in (1, CHUNK):
        rounds = [side_by_side(plain, engines, BATCHES, chunk) for _ in range(LEAST_OF)]
        for batch in sorted(set.intersection(*map(set, rounds))):
            best = [min(each) for each in zip(*(found[batch] for found in rounds), strict=True)]
            print(f"| {chunk}, {batch} | {' | '.join(f'{each * 1e6:,.0f}' for each in best)} |")


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
