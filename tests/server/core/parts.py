"""Real parts of the core, put together in process for tests."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.batcher.submission import UNNUMBERED, Submission
from server.bundle.repository import Bundle, find, load
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.metrics import Metrics
from server.sessions.served_model import ServedModel
from training.bundle import random_bundle
from training.network import Network, random_network

Floats = NDArray[np.float32]
CPU = Device("cpu")
WEIGHTS = random_network(5, 12, 2, 3, seed=7, softmax=False)


def make_bundle(repository: Path, weights: Network = WEIGHTS) -> Bundle:
    """A verified bundle of `weights`, written under `repository`."""
    random_bundle(repository / "small" / "1", weights)
    (entry,) = find(repository)
    return load(entry, repository)


def make_model(bundle: Bundle, repository: Path, **settings: object) -> ServedModel:
    """A served model, not started yet."""
    config = Config(model_repository=repository, **settings)  # type: ignore[arg-type]
    engine = Engine(bundle, CPU, config.max_sessions)
    return ServedModel(engine, config, Metrics())


class Caller:
    """Submits rows to a model and waits for their completion."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def send(
        self,
        rows: list[tuple[str, int | None, Floats]],
        **more: float,
    ) -> tuple[Submission, threading.Event]:
        """Submit (session, first step or None, features [T, I]) rows; the event tells when done."""
        done = threading.Event()
        places = [self.model.locate(session_id) for session_id, _, _ in rows]
        submission = Submission(
            slots=np.array([slot for slot, _ in places], dtype=np.int64),
            generations=np.array([generation for _, generation in places], dtype=np.int64),
            first_steps=np.array(
                [UNNUMBERED if first is None else first for _, first, _ in rows], dtype=np.int64
            ),
            lengths=np.array([len(features) for _, _, features in rows], dtype=np.int32),
            features=np.concatenate([features for _, _, features in rows]),
            session_id=lambda row: rows[row][0],
            on_done=lambda _: done.set(),
            **more,
        )
        self.model.submit(submission)
        return submission, done

    def step(self, rows: list[tuple[str, int | None, Floats]], **more: float) -> Submission:
        """Submit rows and wait."""
        submission, done = self.send(rows, **more)
        assert done.wait(20), "the submission was never completed"
        return submission
