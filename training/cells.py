"""The recurrent cells in plain NumPy, from their equations, and back-propagation through time.

Every other implementation here is compared with this one. For an observation x and a session's
state before it, h and c, a layer of H units computes

    lstm  i = sigmoid(W_i x + R_i h + b_i)      input gate: how much of the candidate to let in
          f = sigmoid(W_f x + R_f h + b_f)      forget gate: how much of the cell to keep
          g = tanh(W_g x + R_g h + b_g)         candidate
          o = sigmoid(W_o x + R_o h + b_o)      output gate: how much of the cell to show
          c' = f * c + i * g
          h' = o * tanh(c'), or P (o * tanh(c')) with a projection P
    gru   r = sigmoid(W_r x + R_r h + b_r)      reset gate
          z = sigmoid(W_z x + R_z h + b_z)      update gate: how much of h to keep
          n = tanh(W_n x + b_n + r * (R_n h + rb_n))
          h' = (1 - z) * n + z * h
    rnn   h' = tanh(W x + R h + b)

(Gers, Schmidhuber & Cummins 2000; Sak, Senior & Beaufays 2014; Cho et al. 2014; Elman 1990.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import Layer

Array = NDArray[np.floating]
State = tuple[Array, ...]
"""A layer's: h [P], and for an lstm c [H]."""


@dataclass(frozen=True)
class Gradients:
    """Of a scalar loss: by the weights (w, r, b, project as in `Layer`), by the inputs x [T, I],
    and by the state before each step and after the last, h [T + 1, P] and, of an lstm, c."""

    w: Array
    r: Array
    b: Array
    x: Array
    h: Array
    c: Array | None = None
    project: Array | None = None


@dataclass(frozen=True)
class LstmTrace:
    """Steps through x [T, I]: gates [T, H], and the states before each step and after the last."""

    x: Array
    i: Array
    f: Array
    g: Array
    o: Array
    h: Array
    c: Array


def step(layer: Layer, x: Array, state: State) -> State:
    """One step of any cell: x [I] and the state before to the state after."""
    given = layer.w @ x + layer.b
    if layer.cell == "lstm":
        return _lstm(layer, given, state)[-1]
    h = state[0]
    own = layer.r @ h
    if layer.cell == "rnn":
        return (np.tanh(given + own),)
    assert layer.rb is not None
    given_r, given_z, given_n = np.split(given, 3)
    own_r, own_z, own_n = np.split(own + layer.rb, 3)
    r, z = sigmoid(given_r + own_r), sigmoid(given_z + own_z)
    return ((1 - z) * np.tanh(given_n + r * own_n) + z * h,)


def lstm_forward(layer: Layer, x: Array, state: State) -> LstmTrace:
    """Step an lstm through x [T, I], keeping what the way back needs."""
    gates, h, c = [], [state[0]], [state[1]]
    for observation in x:
        *now, state = _lstm(layer, layer.w @ observation + layer.b, state)
        gates.append(now)
        h.append(state[0])
        c.append(state[1])
    i, f, g, o = (np.array(each) for each in zip(*gates, strict=True))
    return LstmTrace(x, i, f, g, o, np.array(h), np.array(c))


def lstm_backward(layer: Layer, trace: LstmTrace, error: Array, after: State) -> Gradients:
    """The loss's gradients, the chain rule step by step from the last to the first.

    Args:
        error: [T, P], the gradient of the loss by each step's h through that step's output alone.
        after: by the last h and c through whatever came later; zeros, if nothing did.

    c carries the error back over the forget gate alone, which is why an lstm whose gate is open
    keeps it; h carries it back through all gates.
    """
    dh, dc = np.zeros_like(trace.h), np.zeros_like(trace.c)
    dh[-1], dc[-1] = after
    sums = np.zeros((len(error), len(layer.w)), error.dtype)
    shown = np.tanh(trace.c[1:])
    project = None if layer.project is None else np.zeros_like(layer.project)
    for t in reversed(range(len(error))):
        i, f, g, o = trace.i[t], trace.f[t], trace.g[t], trace.o[t]
        dh[t + 1] += error[t]
        dm = dh[t + 1]
        if layer.project is not None and project is not None:
            project += np.outer(dm, o * shown[t])
            dm = layer.project.T @ dm
        dc[t + 1] += dm * o * (1 - shown[t] ** 2)
        di, df, dg, do = dc[t + 1] * g, dc[t + 1] * trace.c[t], dc[t + 1] * i, dm * shown[t]
        slopes = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)]
        sums[t] = np.concatenate(slopes)
        dh[t], dc[t] = layer.r.T @ sums[t], dc[t + 1] * f
    return Gradients(sums.T @ trace.x, sums.T @ trace.h[:-1], sums.sum(axis=0), sums @ layer.w,
                     dh, dc, project)  # fmt: skip


def rnn_forward(layer: Layer, x: Array, state: State) -> Array:
    """Step a plain rnn through x [T, I]: h [T + 1, H], `state` first."""
    h = [state[0]]
    for observation in x:
        h += step(layer, observation, (h[-1],))
    return np.array(h)


def rnn_backward(layer: Layer, x: Array, h: Array, error: Array, after: State) -> Gradients:
    """As `lstm_backward`; each step back multiplies by R' (1 - h²), and so shrinks or grows."""
    dh = np.zeros_like(h)
    dh[-1] = after[0]
    sums = np.zeros_like(error)
    for t in reversed(range(len(error))):
        dh[t + 1] += error[t]
        sums[t] = dh[t + 1] * (1 - h[t + 1] ** 2)
        dh[t] = layer.r.T @ sums[t]
    return Gradients(sums.T @ x, sums.T @ h[:-1], sums.sum(axis=0), sums @ layer.w, dh)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray((1.0 + np.tanh(0.5 * x)) * 0.5)


def _lstm(layer: Layer, given: Array, state: State) -> tuple[Array, Array, Array, Array, State]:
    """Gates i, f, g, o and the state after, from what W x + b gave."""
    sum_i, sum_f, sum_g, sum_o = np.split(given + layer.r @ state[0], 4)
    i, f, g, o = sigmoid(sum_i), sigmoid(sum_f), np.tanh(sum_g), sigmoid(sum_o)
    c = f * state[1] + i * g
    h = o * np.tanh(c)
    return i, f, g, o, (h if layer.project is None else layer.project @ h, c)
