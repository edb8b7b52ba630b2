"""Gates and state over one held-out session, and how long units remember by their keeping gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.insight.evaluation import Subject
from training.insight.picture import BLUE, ORANGE, WIDTH, Picture, axes, name, picture, short
from training.insight.trace import ALL_GATES, KEEPS, Trace, trace
from training.network import Network
from training.table.session import Session

STATE = {"lstm": "cell state c", "gru": "state h", "rnn": "state h"}
SESSIONS, LONGEST = 8, 500
LINE = 0.17
"""Inches of a class's line."""
Doubles = NDArray[np.float64]


def draw_gates(subject: Subject, session: Session, traced: Trace) -> Picture:
    """A heat map a gate and one of the state over the session; below, the truth and the guess."""
    network = subject.network
    cell = network.layers[0].cell
    session = session.part(0, len(traced.scores))
    order = _order(subject, traced)
    names = [*ALL_GATES[cell], "state"]
    lines = max(1.0, LINE * len(_seen(subject, session, traced)))
    figure = Figure(figsize=(WIDTH, 1.5 * len(names) + lines + 0.3), layout="constrained")
    heights = [1.5] * len(names) + [lines]
    panels: Sequence[Axes] = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for panel, gate in zip(panels, names, strict=False):
        _map(panel, _stacked(traced, gate, order), gate, STATE[cell])
    _lines(panels[-1], subject, session, traced)
    sorted_by = "by time constant within each layer, the slowest at the top" if cell in KEEPS else (
        "in their own order")  # fmt: skip
    caption = (
        f"The first {len(session)} steps of session {session.name}. A row is a unit: layer 0 below "
        f"layer {len(network.layers) - 1}, {sorted_by}. Gates are 0 (white) to 1 (blue); the state "
        "is blue below 0 and red above, in logarithmic shades. At the bottom, what was to be "
        "predicted and what was."
    )
    if len(network.layers) == 1:
        caption = caption.replace("layer 0 below layer 0, ", "")
    return picture("gates", "Gates and state over a session", caption, figure)


def _order(subject: Subject, traced: Trace) -> list[NDArray[np.int64]]:
    if subject.network.layers[0].cell not in KEEPS:
        return [np.arange(layer.hidden) for layer in subject.network.layers]
    return [np.argsort(each) for each in time_constants(subject.network, [traced])]


def _stacked(traced: Trace, gate: str, order: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """[units, T], the first layer's units first."""
    layers = zip(traced.gates, order, strict=True)
    return np.concatenate([gates[gate].numpy()[:, units].T for gates, units in layers])


def _map(panel: Axes, values: NDArray[np.float32], gate: str, state: str) -> None:
    most = max(1.0, float(np.abs(values).max()))  # a unit that counts goes far beyond the others
    norm = SymLogNorm(1.0, vmin=-most, vmax=most) if gate == "state" else Normalize(0, 1)
    image = panel.imshow(values, cmap="RdBu_r" if gate == "state" else "Blues", norm=norm,
                         aspect="auto", origin="lower", interpolation="nearest")  # fmt: skip
    panel.set_title(state if gate == "state" else f"{gate} gate", fontsize=9, loc="left")
    panel.set_ylabel("unit", fontsize=9)
    panel.tick_params(labelsize=8)
    assert panel.figure is not None
    panel.figure.colorbar(image, ax=panel, pad=0.01).ax.tick_params(labelsize=8)


def _lines(panel: Axes, subject: Subject, session: Session, traced: Trace) -> None:
    target = subject.dataset.target
    scores = traced.scores.numpy()
    guess, true = np.asarray(scores[:, 0], np.float64), session.y[:, 0].astype(np.float64)
    if seen := _seen(subject, session, traced):
        guess, true = (_places(seen, values) for values in (scores.argmax(axis=1), true))
    panel.step(range(len(session)), guess, color=ORANGE, lw=1, where="post", label="predicted")
    panel.plot(true, color=BLUE, lw=1.6, label="true")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    if seen:
        panel.set_yticks(range(len(seen)), [short(target.labels[k]) for k in seen])
        panel.set_ylim(-0.5, len(seen) - 0.5)
    panel.legend(fontsize=8, frameon=False, loc="lower right", ncols=2,
                 bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    name(panel, "step", "")


def _seen(subject: Subject, session: Session, traced: Trace) -> list[int]:
    """The classes that occur, as true or as predicted: others would only take room."""
    if not subject.dataset.target.classes:
        return []
    true = session.y[:, 0]
    guess = traced.scores.numpy().argmax(axis=1)
    return sorted({*true[~np.isnan(true)].astype(int).tolist(), *guess.tolist()})


def _places(seen: Sequence[int], classes: NDArray[Any]) -> Doubles:
    """Each class's line, NaN where none is known."""
    known = np.nan_to_num(classes, nan=seen[0]).astype(int)
    lines = np.searchsorted(seen, known).astype(np.float64)
    return np.where(np.isnan(classes.astype(np.float64)), np.nan, lines)


def look(network: Network, sessions: Sequence[Session]) -> list[Trace]:
    """Traces over the beginnings of the longest sessions."""
    longest = sorted(sessions, key=len, reverse=True)[:SESSIONS]
    with torch.no_grad():
        return [trace(network, session.x[:LONGEST]) for session in longest]


def time_constants(network: Network, traces: Sequence[Trace]) -> list[Doubles]:
    """Steps [H] after which a unit keeps 1/e of its state, layer by layer: -1 / mean ln(gate).

    The mean is taken of the logarithm, since what is kept is the gates' product.
    """
    layers = zip(*(each.keeps(network) for each in traces), strict=True)
    return [_constants(torch.cat(gates).double().numpy()) for gates in layers]


def draw_memory(subject: Subject, traces: Sequence[Trace]) -> Picture:
    """A histogram a layer."""
    cell = subject.network.layers[0].cell
    title = "How long units remember"
    if cell not in KEEPS:
        figure, (axis,) = axes(1.0)
        axis.set_axis_off()
        return picture("memory", title, "A plain RNN has no gate that keeps its state.", figure)
    found = time_constants(subject.network, traces)
    figure, panels = axes(2.8, columns=len(found), sharey=True)
    edges = np.geomspace(min(map(np.min, found)), max(map(np.max, found)) * 1.001, 21)
    for k, (panel, constants) in enumerate(zip(panels, found, strict=True)):
        panel.hist(constants, bins=list(edges), color=BLUE)
        panel.set_xscale("log")
        name(panel, "time constant, steps", "units" if k == 0 else "", f"Layer {k}")
    return picture("memory", title, _caption(KEEPS[cell], found), figure)


def _caption(gate: str, found: Sequence[Doubles]) -> str:
    told = "; ".join(
        f"layer {k}: median {np.median(each):.3g}, the slowest three {_slowest(each)}"
        for k, each in enumerate(found)
    )
    return (
        f"After so many steps a unit has kept 1/e of its state, by its {gate} gate over the "
        f"longest held-out sessions. In steps, {told}."
    )


def _slowest(constants: Doubles) -> str:
    return ", ".join(f"{each:.3g}" for each in np.sort(constants)[::-1][:3])


def _constants(gates: Doubles) -> Doubles:
    rate = -np.log(np.clip(gates, 1e-12, 1 - 1e-9)).mean(axis=0)
    return np.asarray(1 / rate)
