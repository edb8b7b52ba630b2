"""Real parts of the core, put together in process for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.bundle.repository import Bundle, find, load
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.metrics import Metrics
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.assembly import Keeping
from server.serving.model import ServedModel
from training.bundle import random_bundle
from training.network import Network, random_network
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]
CPU = Device("cpu")
WEIGHTS = random_network(5, 12, 2, 3, seed=7, softmax=False)


def make_bundle(repository: Path, weights: Network = WEIGHTS) -> Bundle:
    """A verified bundle of `weights`, written under `repository`."""
    random_bundle(repository / "small" / "1", weights)
    (entry,) = find(repository)
    return load(entry, repository)


def expected(xs: Floats) -> Floats:
    """What the equations answer to `xs` [T, I] with `WEIGHTS`, from the initial state: [T, O]."""
    lstm = NumpyNetwork(WEIGHTS)
    return lstm.run(xs, lstm.initial())[0].astype(np.float32)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_model(
    bundle: Bundle,
    repository: Path,
    clock: Callable[[], float] = time.monotonic,
    keeping: Keeping | None = None,
    **settings: object,
) -> ServedModel:
    """A served model, not started yet; `keeping` is where its sessions outlive it."""
    config = Config(model_repository=repository, **settings)  # type: ignore[arg-type]
    engine = Engine(bundle, CPU, config.max_resident or config.max_sessions)
    return ServedModel(engine, config, Metrics(), clock=clock, keeping=keeping)


class Caller:
    """Submits rows to a model and waits for their completion."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def send(
        self,
        rows: Sequence[tuple[str, int | None, Floats]],
        **more: float,
    ) -> tuple[Submission, threading.Event]:
        """Submit (session, first step or None, features [T, I]) rows; the event tells when done."""
        done = threading.Event()
        handles = [self.model.directory.find(session_id)[0] for session_id, _, _ in rows]
        submission = Submission(
            handles=np.array(handles, dtype=np.int64),
            first_steps=np.array(
                [UNNUMBERED if first is None else first for _, first, _ in rows], dtype=np.int64
            ),
            lengths=np.array([len(features) for _, _, features in rows], dtype=np.int32),
            features=np.concatenate([features for _, _, features in rows]),
            on_done=lambda _: done.set(),
            **more,
        )
        self.model.submit(submission)
        return submission, done

    def step(self, rows: Sequence[tuple[str, int | None, Floats]], **more: float) -> Submission:
        """Submit rows and wait."""
        submission, done = self.send(rows, **more)
        assert done.wait(20), "the submission was never completed"
        return submission
