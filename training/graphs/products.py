"""Matrix products of the recurrent layers in float32, float16 or int8; in and out are float32.

int8 takes every row by its own scale, so that what else is in the batch cannot touch it: one scale
a batch, as in DynamicQuantizeLinear, would make a session's output depend on its neighbours.
Weights are int8 with a scale for each output. Rows have 7 bits, 64 is zero and the largest value 63
away: x86 without VNNI sums products of uint8 and int8 in pairs in 16 bits, where 8 bits saturate.
"""

from __future__ import annotations

import numpy as np

from training.graphs.builder import FLOAT, FLOAT16, Builder
from training.network import Floats

ROW_STEPS, ROW_ZERO, WEIGHT_STEPS = 63, 64, 127


def affine(b: Builder, name: str, x: str, weights: Floats, addend: str, precision: str) -> str:
    """x [rows, in] @ weights.T + addend, which is a vector [out] or a matrix [rows, out]."""
    if precision == "float32":
        return b.add("Gemm", x, b.constant(name, weights.T), addend)
    return b.add("Add", product(b, name, x, weights, precision), addend)


def product(b: Builder, name: str, x: str, weights: Floats, precision: str) -> str:
    """x [rows, in] @ weights.T."""
    if precision == "int8":
        return _by_rows(b, name, x, weights)
    if precision == "float16":
        half = b.constant(name, weights.T.astype(np.float16))
        return b.add("Cast", b.add("MatMul", b.add("Cast", x, to=FLOAT16), half), to=FLOAT)
    return b.add("MatMul", x, b.constant(name, weights.T))


def _by_rows(b: Builder, name: str, x: str, weights: Floats) -> str:
    scale = np.maximum(np.abs(weights).max(axis=1), np.finfo(np.float32).tiny) / WEIGHT_STEPS
    whole = b.constant(name, np.round(weights / scale[:, None]).T.astype(np.int8))
    rows, quantised = _quantised(b, x)
    zero = b.constant("zero_point", np.array(ROW_ZERO, np.uint8))
    sums = b.add("Cast", b.add("MatMulInteger", quantised, whole, zero), to=FLOAT)
    scaled = b.add("Mul", sums, b.constant(f"{name}_scale", scale.astype(np.float32)))
    return b.add("Mul", scaled, rows)


def _quantised(b: Builder, x: str) -> tuple[str, str]:
    """Each row's scale [rows, 1] and the rows in uint8. A NaN makes its row's scale NaN."""
    last = b.integers(1)
    largest = b.add("ReduceMax", b.add("Abs", x), last, keepdims=1)
    scale = b.add("Mul", b.add("Max", largest, b.number(1e-12)), b.number(1.0 / ROW_STEPS))
    flat = b.add("Squeeze", scale, last)
    zero = b.constant("zero_points", np.array([ROW_ZERO], np.uint8))
    zeros = b.add("Expand", zero, b.add("Shape", flat))
    return scale, b.add("QuantizeLinear", x, flat, zeros, axis=0)
