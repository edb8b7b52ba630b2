"""The checks of `verify`: each returns its figure in words, or raises where a promise is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine
from server.engine.probe import probe
from server.errors import BadModel
from training.errors import TrainingError
from training.graphs import walks
from training.network import Floats
from training.reference import NumpyNetwork
from training.verify_bundle import LeftOut, Subject
from training.verify_poison import poison

MANY, FEW = 4096, 8


def arenas(subject: Subject) -> str:
    """The graphs load, step only their rows, and update arenas in place."""
    engine = subject.engine(MANY)
    try:
        probe(engine, subject.engine(FEW))
    except BadModel as error:
        raise TrainingError(str(error)) from error
    per_session = engine.state_bytes // (MANY + 1)
    return f"{len(engine.arenas)} states of {per_session} bytes a session, updated in place"


def single_parity(subject: Subject) -> str:
    """Single steps against the network's reference."""
    return _parity(subject, single_steps(subject, subject.engine()))


def step_parity(subject: Subject) -> str:
    """Ragged chunks against the network's reference."""
    return _parity(subject, chunks(subject, subject.engine()))


def ragged(subject: Subject) -> str:
    """Ragged chunks with rubbish for padding against single steps."""
    _more_than_one(subject.manifest.max_chunk, "the bundle steps no chunks")
    steps = single_steps(subject, subject.engine())
    return _within(subject, chunks(subject, subject.engine()), steps, "single steps")


def neighbours(subject: Subject) -> str:
    """Sessions stepped together against each alone."""
    _more_than_one(subject.manifest.max_batch, "the bundle steps one session at a time")
    few = replace(subject, signals=tuple(each[:40] for each in subject.signals))
    engine = few.engine()
    together = walks.by_single_steps(engine, few.signals)
    alone = [walks.by_single_steps(engine, [signal])[0] for signal in few.signals]
    return _within(subject, together, alone, "the same sessions stepped alone")


def missing(subject: Subject) -> str:
    """NaN in every feature that may be missing, at every step."""
    may = subject.manifest.may_miss
    if not may.any():
        raise LeftOut("no feature may be missing")
    signals = tuple(np.where(may, np.float32(np.nan), each) for each in subject.signals)
    holes = replace(subject, signals=signals)
    outputs = single_steps(holes, holes.engine())
    if not all(np.isfinite(each).all() for each in outputs):
        raise TrainingError("missing features make an output that is not finite")
    agrees = "" if subject.network is None else "; " + _parity(holes, outputs)
    return f"{int(may.sum())} features may be missing, outputs stay finite{agrees}"


def round_trip(subject: Subject) -> str:
    """What is written into slots is read from them, and nothing else changes."""
    engine, rng = subject.engine(), np.random.default_rng(0)
    every, chosen = np.arange(1, 9), np.array([6, 2, 3])
    before = engine.read(every)
    new = [rng.normal(size=(len(chosen), *old.shape[1:])).astype(old.dtype) for old in before]
    engine.write(chosen, new)
    expected = [old.copy() for old in before]
    for old, rows in zip(expected, new, strict=True):
        old[chosen - every[0]] = rows
    if not all(map(np.array_equal, engine.read(every), expected)):
        raise TrainingError("what write.onnx wrote is not what read.onnx reads")
    return "read and write move rows exactly"


def single_steps(subject: Subject, engine: Engine) -> list[Floats]:
    """The outputs of all signals, as many side by side as the bundle allows."""
    most, signals = subject.manifest.max_batch, subject.signals
    groups = [signals[k : k + most] for k in range(0, len(signals), most)]
    return [each for group in groups for each in walks.by_single_steps(engine, group)]


def chunks(subject: Subject, engine: Engine) -> list[Floats]:
    """The same by ragged chunks."""
    rng = np.random.default_rng(1)
    most, signals = subject.manifest.max_batch, subject.signals
    groups = [signals[k : k + most] for k in range(0, len(signals), most)]
    return [each for group in groups for each in walks.by_chunks(engine, group, rng)]


def _parity(subject: Subject, outputs: Sequence[Floats]) -> str:
    if subject.network is None:
        raise LeftOut("the bundle has no network.npz to compare with")
    reference = NumpyNetwork(subject.network, np.float64)
    expected = [reference.run(each, reference.initial())[0] for each in subject.signals]
    return _within(subject, outputs, expected, "the reference")


def _within(
    subject: Subject,
    found: Sequence[NDArray[np.floating]],
    expected: Sequence[NDArray[np.floating]],
    what: str,
) -> str:
    apart = np.abs(np.concatenate(found) - np.concatenate(expected)) / subject.scale(expected)
    largest = float(apart.max())
    if not largest <= subject.limit:
        raise TrainingError(f"outputs differ from {what} by {largest:.1e}, "
                            f"more than {subject.limit:.0e}")  # fmt: skip
    return f"within {largest:.1e} of {what} (limit {subject.limit:.0e})"


def _more_than_one(count: int, reason: str) -> None:
    if count < 2:
        raise LeftOut(reason)


CHECKS: dict[str, Callable[[Subject], str]] = {
    "arenas": arenas,
    "single.onnx": single_parity,
    "step.onnx": step_parity,
    "ragged chunks": ragged,
    "neighbours": neighbours,
    "poisoned row": poison,
    "missing features": missing,
    "read and write": round_trip,
}
