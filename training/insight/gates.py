"""Gates and state over one held-out session, unit by unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.insight.drawing import BLUE, ORANGE, WIDTH, name, plain
from training.insight.memory import time_constants
from training.insight.picture import Picture, picture
from training.insight.subject import Subject
from training.insight.walk import ALL_GATES, KEEPS, Walk
from training.table.session import Session

STATE = {"lstm": "cell state c", "gru": "state h", "rnn": "state h"}
MOST_STEPS = 500


def draw_gates(subject: Subject, session: Session, walked: Walk) -> Picture:
    """A heat map a gate and one of the state over the session; below, the truth and the guess."""
    network = subject.network
    cell = network.layers[0].cell
    session = session.part(0, len(walked.scores))
    order = _order(subject, walked)
    names = [*ALL_GATES[cell], "state"]
    figure = Figure(figsize=(WIDTH, 1.5 * len(names) + 1.3), layout="constrained")
    heights = [3] * len(names) + [2]
    panels: Sequence[Axes] = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for panel, gate in zip(panels, names, strict=False):
        _map(panel, _stacked(walked, gate, order), gate, STATE[cell])
    _lines(panels[-1], subject, session, walked)
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


def _order(subject: Subject, walked: Walk) -> list[NDArray[np.int64]]:
    if subject.network.layers[0].cell not in KEEPS:
        return [np.arange(layer.hidden) for layer in subject.network.layers]
    return [np.argsort(each) for each in time_constants(subject.network, [walked])]


def _stacked(walked: Walk, gate: str, order: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """[units, T], the first layer's units first."""
    layers = zip(walked.gates, order, strict=True)
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


def _lines(panel: Axes, subject: Subject, session: Session, walked: Walk) -> None:
    target = subject.dataset.target
    scores = walked.scores.numpy()
    guess = scores.argmax(axis=1) if target.classes else scores[:, 0]
    panel.step(range(len(session)), guess, color=ORANGE, lw=1, where="post", label="predicted")
    panel.plot(session.y[:, 0], color=BLUE, lw=1.6, label="true")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    if target.classes:
        panel.set_yticks(range(len(target.labels)), [plain(label) for label in target.labels])
        panel.set_ylim(-0.5, len(target.labels) - 0.5)
    panel.legend(fontsize=8, frameon=False, loc="lower right", ncols=2,
                 bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    name(panel, "step", "")
