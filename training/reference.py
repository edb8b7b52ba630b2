"""A whole network in plain NumPy, a step at a time: what torch and all graphs must equal.

The cells are those of `training.cells`; what is around them follows `training.network.Network`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training import cells
from training.network import EPSILON, FAR, Embedding, Fan, Layer, Linear, Network, outputs_order

Array = NDArray[np.floating]
State = list[tuple[Array, ...]]
"""A layer's tensors each; then, of a linear path, the lags [lags, W]: none before the first."""
Part = TypeVar("Part", Network, Layer, Embedding, Linear, Fan)


class NumpyNetwork:
    """Steps one session at a time, in float32 or float64."""

    def __init__(self, network: Network, dtype: type[np.floating] = np.float32) -> None:
        self._network, self._dtype = _cast(network, dtype), dtype

    def initial(self) -> State:
        """The state before the first step: zeros, and no lags."""
        zeros: State = [
            tuple(np.zeros(width, self._dtype) for _, width in layer.states)
            for layer in self._network.layers
        ]
        linear = self._network.linear
        return zeros if linear is None else [*zeros, (np.zeros((0, linear.width), self._dtype),)]

    def run(self, x: Array, state: State) -> tuple[Array, State]:
        """Step through x [T, F]; returns outputs [T, O] and the state after the last step."""
        raw = x.astype(self._dtype)
        count, linear = len(self._network.layers), self._network.linear
        hidden = np.empty((len(x), self._network.layers[-1].width), self._dtype)
        after = state[:count]
        for t, signal in enumerate(self.encode(raw)):
            hidden[t], after = self._step(signal, after)
        if linear is None:
            return self._head(hidden, raw, 0.0), after
        said, lags = self._linear(linear, raw, state[count][0])
        return self._head(hidden, raw, said), [*after, (lags,)]

    def linear(self, x: Array) -> Array | float:
        """What the linear path adds to the scores [T, O] from a session's first step on; 0 of a
        network that has none."""
        linear = self._network.linear
        if linear is None:
            return 0.0
        none = np.zeros((0, linear.width), self._dtype)
        return self._linear(linear, x.astype(self._dtype), none)[0]

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
        network = self._network
        scaled, unseen = self._scaled(raw, network.clip)
        return np.where(unseen, 0, scaled)[:, list(network.numbers)].astype(self._dtype)

    def _scaled(self, raw: Array, clip: float) -> tuple[Array, NDArray[np.bool_]]:
        """All features normalised and clipped [T, F], and where one is missing that may be."""
        network = self._network
        if network.mirror is not None:
            flip = np.array(network.mirror.flip, self._dtype)
            raw = raw * (1 - 2 * raw[:, network.mirror.by, None] * flip)
        scaled = np.clip((raw - network.mean) / network.std, -clip, clip)
        return scaled, np.isnan(raw) & np.isin(np.arange(network.inputs), network.missing)

    def _linear(self, linear: Linear, raw: Array, lags: Array) -> tuple[Array, Array]:
        """What it adds to the scores [T, O], and the lags after."""
        said = np.empty((len(raw), self._network.outputs), self._dtype)
        scaled, unseen = self._scaled(raw, FAR)
        numbers = list(self._network.numbers)
        for t in range(len(raw)):
            known = lags[-1][: len(numbers)] if len(lags) else np.zeros(len(numbers), self._dtype)
            present = np.where(unseen[t], 0, scaled[t])[numbers]
            present = np.where(unseen[t][numbers], known, present)
            ones = [self._one_hot(each, raw[t]) for each in self._network.embeddings]
            seen = np.concatenate([present, *ones]).astype(self._dtype)
            if not len(lags):
                lags = np.tile(seen, (linear.lags, 1))
            steps = np.concatenate([lags, seen[None]])
            said[t], lags = linear.w @ steps.ravel(), steps[1:]
        return said, lags

    def _one_hot(self, embedding: Embedding, raw: Array) -> Array:
        return np.asarray(np.arange(embedding.labels) == np.rint(raw[embedding.feature]))

    def _step(self, signal: Array, state: State) -> tuple[Array, State]:
        after: State = []
        for layer, before in zip(self._network.layers, state, strict=True):
            after.append(cells.step(layer, signal, before))
            out = _normalised(layer, after[-1][0])
            signal = out + signal if layer.residual else out
        return signal, after

    def _head(self, hidden: Array, raw: Array, said: Array | float) -> Array:
        network = self._network
        scores: Array = hidden @ network.head_w.T + network.head_b + said
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


def _normalised(layer: Layer, h: Array) -> Array:
    if layer.gain is None or layer.shift is None:
        return h
    away = h - h.mean()
    return np.asarray(layer.gain * away / np.sqrt((away**2).mean() + EPSILON) + layer.shift)


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
    if isinstance(value, Linear):
        return _cast(value, dtype)
    if isinstance(value, Fan):
        return _cast(value, dtype)
    return _cast(value, dtype) if isinstance(value, Embedding) else value
