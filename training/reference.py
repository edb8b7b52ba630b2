"""A whole network in plain NumPy, a step at a time: what torch and all graphs must equal.

The cells are those of `training.cells`; what is around them follows `training.network.Network`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training import cells
from training.network import Embedding, Fan, Layer, Network, outputs_order

Array = NDArray[np.floating]
State = list[tuple[Array, ...]]
Part = TypeVar("Part", Network, Layer, Embedding, Fan)


class NumpyNetwork:
    """Steps one session at a time, in float32 or float64."""

    def __init__(self, network: Network, dtype: type[np.floating] = np.float32) -> None:
        self._network, self._dtype = _cast(network, dtype), dtype

    def initial(self) -> State:
        """The state before the first step: zeros."""
        return [
            tuple(np.zeros(width, self._dtype) for _, width in layer.states)
            for layer in self._network.layers
        ]

    def run(self, x: Array, state: State) -> tuple[Array, State]:
        """Step through x [T, F]; returns outputs [T, O] and the state after the last step."""
        raw = x.astype(self._dtype)
        hidden = np.empty((len(x), self._network.layers[-1].width), self._dtype)
        for t, signal in enumerate(self.encode(raw)):
            hidden[t], state = self._step(signal, state)
        return self._head(hidden, raw), state

    def encode(self, raw: Array) -> Array:
        """What the first layer sees [T, I]."""
        parts = [self._numbers(raw)]
        parts.append(np.isnan(raw[:, list(self._network.missing)]).astype(self._dtype))
        for embedding in self._network.embeddings:
            label = np.rint(raw[:, embedding.feature])
            known = (label >= 0) & (label < embedding.labels)
            parts.append(embedding.table[np.where(known, label, embedding.labels).astype(int)])
        return np.concatenate(parts, axis=1)

    def _numbers(self, raw: Array) -> Array:
        network, numbers = self._network, list(self._network.numbers)
        if network.mirror is not None:
            flip = np.array(network.mirror.flip, self._dtype)
            raw = raw * (1 - 2 * raw[:, network.mirror.by, None] * flip)
        scaled = np.clip((raw - network.mean) / network.std, -network.clip, network.clip)
        unseen = np.isnan(raw) & np.isin(np.arange(network.inputs), network.missing)
        return np.where(unseen, 0, scaled)[:, numbers].astype(self._dtype)

    def _step(self, signal: Array, state: State) -> tuple[Array, State]:
        after: State = []
        for layer, before in zip(self._network.layers, state, strict=True):
            after.append(cells.step(layer, signal, before))
            signal = after[-1][0] + signal if layer.residual else after[-1][0]
        return signal, after

    def _head(self, hidden: Array, raw: Array) -> Array:
        network = self._network
        scores: Array = hidden @ network.head_w.T + network.head_b
        if network.softmax:
            scores = scores / self._dtype(network.temperature)
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        added: Array = np.zeros(1, self._dtype)
        if network.add is not None:
            columns = list(network.add)
            now = raw[:, columns]
            added = np.where(np.isnan(now), network.mean[columns], now)
        if network.fan is None:
            return scores + added
        return _opened(network.fan, scores, added)


def _opened(fan: Fan, scores: Array, added: Array) -> Array:
    """Quantiles [T, Q·V]: out from the median, to which what is `added` belongs."""
    apart = scores.reshape(len(scores), len(fan.levels), -1)
    gaps = np.logaddexp(0, apart) * fan.scale
    place = np.argsort(outputs_order(fan.levels))  # by level
    quantiles = np.empty_like(gaps)
    quantiles[:, 0] = apart[:, 0] + added
    for q in reversed(range(fan.middle)):
        quantiles[:, place[q]] = quantiles[:, place[q + 1]] - gaps[:, place[q]]
    for q in range(fan.middle + 1, len(fan.levels)):
        quantiles[:, place[q]] = quantiles[:, place[q - 1]] + gaps[:, place[q]]
    return quantiles.reshape(len(scores), -1)


def _cast(part: Part, dtype: type[np.floating]) -> Part:
    """The same with all its arrays in `dtype`."""
    changed: dict[str, Any] = {
        each.name: _cast_value(getattr(part, each.name), dtype) for each in fields(part)
    }
    return replace(part, **changed)


def _cast_value(value: Any, dtype: type[np.floating]) -> Any:
    if isinstance(value, np.ndarray):
        return value.astype(dtype)
    if isinstance(value, tuple):
        return tuple(_cast_value(each, dtype) for each in value)
    if isinstance(value, Layer):
        return _cast(value, dtype)
    if isinstance(value, Fan):
        return _cast(value, dtype)
    return _cast(value, dtype) if isinstance(value, Embedding) else value
