"""What the network must put out on held-out sessions, and how far others are from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from server.engine.device import Device
from training.errors import TrainingError
from training.graphs.form import Form
from training.graphs.served import serve
from training.graphs.walks import by_chunks, by_single_steps
from training.network import Floats, Network
from training.reference import Array, NumpyNetwork
from training.table.session import Session, Target

TOLERANCE = 1e-5
MOST_STEPS = 50_000

Torch = Callable[[Floats], Floats]


class ParityError(TrainingError):
    """The exported graphs do not compute what was trained; nothing was written."""


@dataclass(frozen=True)
class Truth:
    """Sessions and the outputs [T, O] of the NumPy reference in float64 on them.

    Differences are in shares of `scale` [O]: 1 for probabilities, else the largest value.
    """

    signals: tuple[Floats, ...]
    targets: tuple[Floats, ...]
    outputs: tuple[Array, ...]
    scale: Array

    def differences(self, found: Sequence[Floats]) -> Array:
        """|found - outputs| / scale [steps, O]; infinite where something is not finite."""
        apart = np.abs(np.concatenate(found) - np.concatenate(self.outputs)) / self.scale
        return np.where(np.isfinite(apart), apart, np.inf)


def truth_of(network: Network, sessions: Sequence[Session]) -> Truth:
    """Whole sessions, as many as fit into 50,000 steps, and at least a part of one.

    Raises:
        TrainingError: there is no session.
    """
    if not sessions:
        raise TrainingError("there is no session to prove the export on")
    bounded = _bounded(sessions)
    reference = NumpyNetwork(network, np.float64)
    outputs = tuple(reference.run(each.x, reference.initial())[0] for each in bounded)
    return Truth(
        tuple(each.x for each in bounded),
        tuple(each.y for each in bounded),
        outputs,
        scale_of(network, np.concatenate(outputs)),
    )


def scale_of(network: Network, outputs: Array) -> Array:
    """What differences of outputs [steps, O] are shares of, [O]."""
    if network.softmax:
        return np.ones(network.outputs)
    largest = np.abs(outputs).max(axis=0)
    return np.where(largest > 0, largest, 1.0)


def prove(
    network: Network, form: Form, truth: Truth, torch_outputs: Torch | None, device: Device
) -> dict[str, float]:
    """The largest difference of each implementation from the reference.

    Raises:
        ParityError: one is above 1e-5.
    """
    engine = serve(network, form, len(truth.signals), device)
    found = {
        "single_steps": by_single_steps(engine, truth.signals),
        "ragged_chunks": by_chunks(engine, truth.signals, np.random.default_rng(0)),
    }
    if torch_outputs is not None:
        found["torch"] = [torch_outputs(signal) for signal in truth.signals]
    errors = {name: float(truth.differences(each).max()) for name, each in found.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise ParityError(f"{name} differs from the reference by {error:.2e}")
    return errors


def figures(found: Sequence[Floats], truth: Truth, target: Target) -> dict[str, float]:
    """Accuracy per step, or RMSE of each value in its unit; empty where no target is known."""
    guess, y = np.concatenate(found), np.concatenate(truth.targets)
    known = ~np.isnan(y)
    if target.classes:
        hits = (guess.argmax(-1) == y[:, 0])[known[:, 0]]
        return {"accuracy_per_step": float(hits.mean())} if len(hits) else {}
    return {
        f"rmse_{name}": float(np.sqrt(np.mean((guess - y)[known[:, k], k] ** 2)))
        for k, name in enumerate(target.names)
        if known[:, k].any()
    }


def _bounded(sessions: Sequence[Session]) -> list[Session]:
    taken, left = list[Session](), MOST_STEPS
    for session in sessions:
        if len(session) <= left:
            taken.append(session)
            left -= len(session)
    return taken or [sessions[0].part(0, MOST_STEPS)]
