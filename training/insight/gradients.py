"""How far back the loss reaches: its gradient by the states before, trained, untrained, and an RNN.

Back-propagation through time multiplies the error at each step back by the state's Jacobian. In a
plain RNN the product shrinks or grows like a power (Hochreiter 1991; Bengio, Simard & Frasconi
1994); in an LSTM the cell state passes it on by the forget gate alone (Gers et al. 2000).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import TrainingError
from training.insight.evaluation import Subject
from training.insight.picture import BLUE, GREY, ORANGE, Picture, axes, name, picture
from training.insight.trace import Trace, trace
from training.loop.fit import new_network
from training.network import Floats, Network
from training.table.session import Session, Target

BACK, SESSIONS, LONGEST, LOSSES = 100, 6, 400, 5
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Reach:
    """norms [losses, K]: of each loss's gradient by all states together, 1 to K steps before it.

    kept [losses, K]: the product of keeping gates over those steps, of the unit at the
    upper decile; None without such gates.
    """

    norms: Doubles
    kept: Doubles | None

    @property
    def relative(self) -> Doubles:
        """The norms as shares of that one step back, where that is not 0; all 0 of layers that
        nothing hangs on, as before training that a linear model begins."""
        first = self.norms[:, :1]
        if not first.any():
            return self.norms
        return self.norms[first[:, 0] > 0] / first[first[:, 0] > 0]


def reach(network: Network, sessions: Sequence[Session], target: Target, back: int) -> Reach:
    """Of the losses at some steps of some sessions, all at least `back` steps in."""
    norms, kept = [], []
    for session in sessions:
        traced = trace(network, session.x)
        for t in _losses(session, back):
            norms.append(_norms(traced, _loss(traced, session.y, target, t), t, back))
            kept.append(_kept(traced.keeps(network), t, back))
    has = kept[0] is not None
    return Reach(np.stack(norms), np.stack([k for k in kept if k is not None]) if has else None)


def draw_gradients(subject: Subject) -> Picture:
    """The three networks beside each other, on held-out sessions."""
    sessions, back = _chosen(subject.held_out)
    compared = {
        "trained": (subject.network, BLUE),
        "the same, untrained": (_untrained(subject, subject.recipe.network.cell), ORANGE),
        "plain RNN, untrained": (_untrained(subject, "rnn"), GREY),
    }
    found = {label: reach(network, sessions, subject.dataset.target, back)
             for label, (network, _) in compared.items()}  # fmt: skip
    figure, (axis,) = axes(3.6)
    steps = np.arange(1, back + 1)
    for label, (_, colour) in compared.items():
        low, middle, high = np.percentile(found[label].relative, [25, 50, 75], axis=0)
        axis.plot(steps, middle, color=colour, label=label)
        axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    kept = found["trained"].kept
    if kept is not None:
        axis.plot(steps, np.median(kept, axis=0), color=BLUE, linestyle=":",
                  label="trained: product of keeping gates, upper decile")  # fmt: skip
    axis.set_yscale("log")
    axis.legend(fontsize=8, frameon=False)
    name(axis, "k, steps back", "gradient by the state at t-k / at t-1")
    return picture("gradients", "How far back the loss reaches", _caption(found, back), figure)


def _caption(found: dict[str, Reach], back: int) -> str:
    told = "; ".join(
        f"{label}: {np.median(each.relative[:, -1]):.1e}" for label, each in found.items()
    )
    kept = found["trained"].kept
    gates = "" if kept is None else (
        f" The dotted line is the product of keeping gates of the unit at the upper decile, "
        f"{np.median(kept[:, -1]):.1e} after {back} steps: what its state passes on by itself."
    )  # fmt: skip
    return (
        f"The norm of the gradient of the loss at step t by the state (of all layers) k steps "
        f"before, as a share of that one step before; medians and quartiles of "
        f"{len(found['trained'].norms)} losses on held-out sessions. After {back} steps: {told}. "
        "Where the line falls like a straight one the gradient vanishes, and training cannot learn "
        "what lies further back; where it rises it explodes, and is clipped." + gates
    )


def _chosen(sessions: Sequence[Session]) -> tuple[list[Session], int]:
    """The longest ones, cut, and how far back all of them allow to look."""
    longest = sorted(sessions, key=len, reverse=True)[:SESSIONS]
    back = min(BACK, len(longest[-1]) // 2)
    parts = [each.part(0, LONGEST) for each in longest]
    parts = [each for each in parts if any(True for _ in _losses(each, back))]
    if back < 2 or not parts:
        raise TrainingError("the held-out sessions are too short to look back in")
    return parts, back


def _losses(session: Session, back: int) -> Iterator[int]:
    """Steps whose target is known, spread evenly over what is far enough in."""
    known = np.flatnonzero(~np.isnan(session.y).all(axis=1))
    far = known[known >= back]
    if len(far):
        yield from np.unique(far[np.linspace(0, len(far) - 1, LOSSES).astype(int)]).tolist()


def _loss(traced: Trace, y: Floats, target: Target, t: int) -> Tensor:
    if target.classes:
        return nn.functional.cross_entropy(traced.scores[t], torch.tensor(int(y[t, 0])))
    known = ~np.isnan(y[t])
    return (traced.scores[t][known] - torch.from_numpy(y[t][known])).square().sum()


def _norms(traced: Trace, loss: Tensor, t: int, back: int) -> Doubles:
    before = traced.states[t - back : t]
    flat = [tensor for each in before for tensor in each]
    found = torch.autograd.grad(loss, flat, retain_graph=True)
    grouped = np.array([float(each.double().square().sum()) for each in found]).reshape(back, -1)
    norms: Doubles = np.sqrt(grouped.sum(axis=1))[::-1]
    return norms


def _kept(gates: list[Tensor], t: int, back: int) -> Doubles | None:
    """Entry k - 1: the product over steps t-k+1 to t, of the unit at the upper decile."""
    if not gates:
        return None
    last = torch.cat([each[t - back + 1 : t + 1] for each in gates], dim=1).detach().double()
    products = torch.cumprod(last.flip(0), dim=0)
    high: Doubles = products.quantile(0.9, dim=1).numpy()
    return high


def _untrained(subject: Subject, cell: str) -> Network:
    """As training would begin, of the recipe's size."""
    shape = subject.recipe.network
    if cell != shape.cell:
        shape = shape.model_copy(update={"cell": cell, "projection": 0})
    torch.manual_seed(subject.recipe.loop.seed)
    recipe = subject.recipe.model_copy(update={"network": shape})
    return new_network(subject.dataset, recipe).network()
