"""Which units remember for how long: the time constants of their keeping gates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.insight.drawing import BLUE, axes, name
from training.insight.picture import Picture, picture
from training.insight.subject import Subject
from training.insight.walk import KEEPS, Walk, walk
from training.network import Network
from training.table.session import Session

SESSIONS, LONGEST = 8, 500
Doubles = NDArray[np.float64]


def look(network: Network, sessions: Sequence[Session]) -> list[Walk]:
    """Walks over the beginnings of the longest sessions."""
    longest = sorted(sessions, key=len, reverse=True)[:SESSIONS]
    with torch.no_grad():
        return [walk(network, session.x[:LONGEST]) for session in longest]


def time_constants(network: Network, walks: Sequence[Walk]) -> list[Doubles]:
    """Steps [H] after which a unit keeps 1/e of its state, layer by layer: -1 / mean ln(gate).

    The mean is taken of the logarithm, since what is kept is the gates' product.
    """
    layers = zip(*(each.keeps(network) for each in walks), strict=True)
    return [_constants(torch.cat(gates).double().numpy()) for gates in layers]


def draw_memory(subject: Subject, walks: Sequence[Walk]) -> Picture:
    """A histogram a layer."""
    cell = subject.network.layers[0].cell
    title = "How long units remember"
    if cell not in KEEPS:
        figure, (axis,) = axes(1.0)
        axis.set_axis_off()
        return picture("memory", title, "A plain RNN has no gate that keeps its state.", figure)
    found = time_constants(subject.network, walks)
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
