"""A network stepped in torch, from its plain arrays, with every gate and every state kept.

So gradients can be asked for by any state in between, which torch's own kernels do not give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.network import EPSILON, Floats, Layer, Network
from training.reference import NumpyNetwork

Gates = dict[str, Tensor]
ALL_GATES = {"lstm": ("input", "forget", "output"), "gru": ("reset", "keep"), "rnn": ()}
KEEPS = {"lstm": "forget", "gru": "keep"}
"""The gate whose value is the share of a unit's state that stays."""


@dataclass(frozen=True)
class Trace:
    """T steps from zeros.

    scores [T, V]: logits as training has them, before any temperature, or values (of quantiles the
    medians). states: after each step, every state tensor of every layer, as it goes into the next
    step and nowhere else. gates: for each layer, by name, [T, H].
    """

    scores: Tensor
    states: list[list[Tensor]]
    gates: list[Gates]

    def detached(self) -> Trace:
        """Without what gradients need."""
        gates = [{name: gate.detach() for name, gate in each.items()} for each in self.gates]
        return Trace(self.scores.detach(), [], gates)

    def keeps(self, network: Network) -> list[Tensor]:
        """The keeping gate [T, H] of each layer that has one."""
        pairs = zip(network.layers, self.gates, strict=True)
        return [gates[KEEPS[layer.cell]] for layer, gates in pairs if layer.cell in KEEPS]


def trace(network: Network, x: Floats) -> Trace:
    """Step through x [T, F]."""
    signals = torch.from_numpy(NumpyNetwork(network).encode(x).astype(np.float32))
    layers = [_Stepper(layer) for layer in network.layers]
    state = [each.initial() for each in layers]
    tops, states, gates = [], [], list[list[Gates]]()
    for signal in signals:
        now = []
        for k, each in enumerate(layers):
            signal, state[k], found = each.step(signal, state[k])
            now.append(found)
        tops.append(signal)
        gates.append(now)
        # What a state says later goes through these copies, not through the layer above.
        state = [[tensor.clone().requires_grad_() for tensor in own] for own in state]
        states.append([tensor for own in state for tensor in own])
    return Trace(_scores(network, torch.stack(tops), x), states, _by_layer(gates))


def _scores(network: Network, tops: Tensor, x: Floats) -> Tensor:
    said = slice(network.values)
    head = torch.from_numpy(network.head_w[said]), torch.from_numpy(network.head_b[said])
    scores = tops @ head[0].T + head[1]
    if network.linear is not None:
        scores = scores + torch.from_numpy(np.asarray(NumpyNetwork(network).linear(x))[:, said])
    if network.add is None:
        return scores
    columns = list(network.add)
    base = np.where(np.isnan(x[:, columns]), network.mean[columns], x[:, columns])
    return scores + torch.from_numpy(base)


def _by_layer(gates: list[list[Gates]]) -> list[Gates]:
    return [
        {name: torch.stack([step[k][name] for step in gates]) for name in gates[0][k]}
        for k in range(len(gates[0]))
    ]


class _Stepper:
    """One layer, its arrays as tensors; the equations are those of `training.cells`."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._w, self._r, self._b = (torch.from_numpy(x) for x in (layer.w, layer.r, layer.b))
        self._rb = None if layer.rb is None else torch.from_numpy(layer.rb)
        self._project = None if layer.project is None else torch.from_numpy(layer.project)
        both = (layer.gain, layer.shift)
        self._norm = [torch.from_numpy(x) for x in both if x is not None] or None

    def initial(self) -> list[Tensor]:
        return [torch.zeros(width) for _, width in self._layer.states]

    def step(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor], Gates]:
        """What goes up, the state after, the gates (and under "state" what they act on)."""
        how = {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[self._layer.cell]
        after, gates = how(self._w @ x + self._b, self._r @ state[0], state)
        gates["state"] = after[-1]
        out = self._normalised(after[0])
        return out + x if self._layer.residual else out, after, gates

    def _normalised(self, h: Tensor) -> Tensor:
        if self._norm is None:
            return h
        gain, shift = self._norm
        return torch.layer_norm(h, h.shape, gain, shift, EPSILON)

    def _lstm(self, given: Tensor, own: Tensor, state: list[Tensor]) -> tuple[list[Tensor], Gates]:
        sums = (given + own).chunk(4)
        i, f, o = (torch.sigmoid(sums[k]) for k in (0, 1, 3))
        c = f * state[1] + i * torch.tanh(sums[2])
        h = o * torch.tanh(c)
        h = h if self._project is None else self._project @ h
        return [h, c], {"input": i, "forget": f, "output": o}

    def _gru(self, given: Tensor, own: Tensor, state: list[Tensor]) -> tuple[list[Tensor], Gates]:
        assert self._rb is not None
        (given_r, given_z, given_n), (own_r, own_z, own_n) = (
            given.chunk(3),
            (own + self._rb).chunk(3),
        )
        r, z = torch.sigmoid(given_r + own_r), torch.sigmoid(given_z + own_z)
        n = torch.tanh(given_n + r * own_n)
        return [(1 - z) * n + z * state[0]], {"reset": r, "keep": z}

    def _rnn(self, given: Tensor, own: Tensor, state: list[Tensor]) -> tuple[list[Tensor], Gates]:
        return [torch.tanh(given + own)], {}
