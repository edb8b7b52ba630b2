"""How a network is written as graphs: which operators, which opset, which precision."""

from __future__ import annotations

from dataclasses import dataclass

from training.network import Network

OPERATOR, GEMM, SCAN = "operator", "gemm", "scan"
OPSETS = (18, 21, 23)
PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Form:
    """One of the ways to write step.onnx and single.onnx.

    step: "operator" (ONNX LSTM, GRU, RNN) or "scan" (one cell in a loop over time).
    single: "gemm" (one cell, no time axis) or "operator" (the operator at T = 1).
    precision: what matrix products of the recurrent layers are computed in; states, gates, inputs
    and the head are float32 in all.
    """

    step: str = OPERATOR
    single: str = GEMM
    opset: int = OPSETS[0]
    precision: str = "float32"

    def allows(self, network: Network) -> bool:
        """ONNX's operators know neither projections nor products in int8."""
        plain = self.step == SCAN and self.single == GEMM
        projects = any(layer.project is not None for layer in network.layers)
        return plain or not (projects or self.precision == "int8")


def usual_form(network: Network, precision: str = "float32") -> Form:
    """What is written where nothing was measured."""
    form = Form(precision=precision)
    return form if form.allows(network) else Form(step=SCAN, precision=precision)
