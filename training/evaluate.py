"""How good a trained network is on sessions it has never seen, stepped whole and fresh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.baselines import rmse
from training.loop.module import StreamingNetwork
from training.network import Floats
from training.table.session import Session, Target


def predict(network: StreamingNetwork, x: Floats) -> Floats:
    """The outputs [T, O] of a whole session x [T, F]."""
    with torch.no_grad():
        outputs: Floats = network.eval().predict(torch.from_numpy(x)[None])[0].numpy()
    return outputs


def evaluate(
    network: StreamingNetwork, target: Target, sessions: Sequence[Session]
) -> dict[str, float]:
    """Accuracy per step and at session end; or RMSE of each value in its unit."""
    outputs = [predict(network, session.x) for session in sessions]
    if target.classes:
        return _accuracy(outputs, sessions)
    y = np.concatenate([session.y for session in sessions])
    guess = np.concatenate(outputs)
    known = ~np.isnan(y)
    return {
        f"rmse_{name}": rmse(guess[known[:, k], k], y[known[:, k], k])
        for k, name in enumerate(target.names)
    }


def ends(network: StreamingNetwork, sessions: Sequence[Session]) -> list[tuple[int, int]]:
    """For each session its last label and the class then predicted."""
    pairs = []
    for session in sessions:
        known = np.flatnonzero(~np.isnan(session.y[:, 0]))
        if len(known):
            guess = predict(network, session.x)[known[-1]].argmax()
            pairs.append((int(session.y[known[-1], 0]), int(guess)))
    return pairs


def _accuracy(outputs: Sequence[Floats], sessions: Sequence[Session]) -> dict[str, float]:
    right, last = [], []
    for guess, session in zip(outputs, sessions, strict=True):
        known = ~np.isnan(session.y[:, 0])
        hits = (guess.argmax(-1) == session.y[:, 0])[known]
        right.append(hits)
        last += list(hits[-1:])
    return {
        "accuracy_per_step": float(np.concatenate(right).mean()),
        "accuracy_at_session_end": float(np.mean(last)),
    }
