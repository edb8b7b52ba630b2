"""From the last layer's h to the output: linear, perhaps added to features, perhaps softmax."""

from __future__ import annotations

from training.graphs.builder import Builder
from training.graphs.inputs import base
from training.network import Network


def head(b: Builder, network: Network, hidden: str, raw: str, name: str) -> None:
    """Write `name` [..., O] from hidden [..., P] and raw [..., F].

    Always in float32, for outputs have units.
    """
    scores = b.add("MatMul", hidden, b.constant("head_w", network.head_w.T))
    bias = b.constant("head_b", network.head_b)
    if network.softmax:
        b.add("Softmax", b.add("Add", scores, bias), outputs=[name], axis=-1)
    elif network.add is not None:
        change = b.add("Add", scores, bias)
        b.add("Add", base(b, network, raw), change, outputs=[name])
    else:
        b.add("Add", scores, bias, outputs=[name])
