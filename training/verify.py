"""What `verify` checks of anybody's bundle, in the engine that the server would make.

A bundle from disk and random sessions to step come first; then the checks: each returns its figure
in words, or raises where a promise is broken. No training data is needed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import SINGLE, SINGLE_CUDA, Manifest
from server.bundle.repository import Bundle, Entry, Verify, load
from server.engine.device import Device, DeviceError, choose
from server.engine.engine import Engine
from server.engine.opening import open_engine
from server.engine.probe import probe
from server.errors import BadModel
from training.errors import TrainingError
from training.graphs.stepping import (
    by_chunks,
    by_single_steps,
    rows,
    with_cuda_single,
    with_single,
)
from training.network import FILE, Floats, Network, network_from_bytes
from training.reference import NumpyNetwork

SESSIONS, LONGEST, MISSING = 16, 150, 0.1
MANY, FEW = 4096, 8
ROWS, VICTIM, BEFORE = 4, 1, 5
LIMITS = {"float32": 1e-5, "float16": 1e-2, "int8": 1e-1}


class LeftOut(Exception):
    """The bundle gives no ground for a check; the message says why."""


@dataclass(frozen=True)
class Opened:
    """What is verified: `signals` [T, F] are drawn as the manifest says the features lie."""

    bundle: Bundle
    raw: Mapping[str, Any]
    network: Network | None
    device: Device
    signals: tuple[Floats, ...]

    @property
    def manifest(self) -> Manifest:
        """The bundle's, as the server reads it."""
        return self.bundle.manifest

    @property
    def precision(self) -> str:
        """What its graphs compute in."""
        return str(self.raw.get("export", {}).get("form", {}).get("precision", "float32"))

    @property
    def limit(self) -> float:
        """How far outputs may be apart, in shares of `scale`: in other precisions than float32 at
        least thrice what was measured at the export."""
        cost = self.raw.get("precisions", {}).get(self.precision, {}).get("difference", {})
        measured = 0.0 if self.precision == "float32" else 3 * float(cost.get("max", 0.0))
        return max(LIMITS.get(self.precision, 0.0), measured)

    @property
    def told(self) -> str:
        """The bundle in one line."""
        m, kind = self.manifest, f"{self.precision} on {self.device.name}"
        return f"{m.name}/{m.version}, {len(m.files)} match their sha256; {kind}"

    def engine(self, sessions: int = SESSIONS) -> Engine:
        """A new one, all of whose sessions are unused; for this thread.

        Raises:
            TrainingError: a graph does not load.
        """
        try:
            engine = open_engine(self.bundle, self.device, sessions)
            engine.begin()
            return engine
        except BadModel as error:
            raise TrainingError(str(error)) from error

    def groups(self) -> list[Sequence[Floats]]:
        """The signals, as many side by side as the bundle allows."""
        most = self.manifest.max_batch
        return [self.signals[k : k + most] for k in range(0, len(self.signals), most)]

    @cached_property
    def stepped(self) -> list[Floats]:
        """What a new engine puts out for all signals by single steps."""
        engine = self.engine()
        return [each for group in self.groups() for each in by_single_steps(engine, group)]

    @cached_property
    def expected(self) -> list[Floats]:
        """What the network's reference puts out for them.

        Raises:
            LeftOut: there is no network.
        """
        if self.network is None:
            raise LeftOut("the bundle has no network.npz to compare with")
        reference = NumpyNetwork(self.network, np.float64)
        return [reference.run(each, reference.initial())[0] for each in self.signals]

    def scale(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """[O]: 1 for probabilities, else the largest value."""
        largest = np.abs(np.concatenate(outputs)).max(axis=0).astype(np.float64)
        kinds = [output.kind for output in self.manifest.outputs for _ in range(output.size)]
        plain = np.array([kind != "value" for kind in kinds]) | (largest == 0)
        return np.where(plain, 1.0, largest)


def open_bundle(folder: Path, device: str, seed: int, verify: Verify | None = None) -> Opened:
    """Read and check all files, and the signature if somebody is to `verify` it.

    Raises:
        TrainingError: a file is missing, corrupt or malformed, or the device cannot be used.
    """
    folder = folder.resolve()
    if not folder.name.isdecimal():
        raise TrainingError(f"{folder.name!r} is no version: name the folder .../NAME/VERSION")
    try:
        entry = Entry(folder.parent.name, int(folder.name), folder)
        bundle = load(entry, folder.parent.parent, verify=verify)
        chosen = choose(device)
    except (BadModel, DeviceError) as error:
        raise TrainingError(str(error)) from error
    raw = json.loads(bundle.text)
    network = _network(folder, bundle)
    return Opened(bundle, raw, network, chosen, _signals(raw["features"], seed))


def _network(folder: Path, bundle: Bundle) -> Network | None:
    """The trained arrays, of the bytes that the manifest names."""
    digest = bundle.manifest.files.get(FILE)
    if digest is None:
        return None
    content = (folder / FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise TrainingError(f"{FILE} changes while it is read")
    try:
        return network_from_bytes(content)
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{FILE} is malformed: {repr(error)[:200]}") from error


def _signals(features: Sequence[Mapping[str, Any]], seed: int) -> tuple[Floats, ...]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(LONGEST // 3, LONGEST + 1, SESSIONS)
    return tuple(
        np.stack([_column(feature, int(length), rng) for feature in features], axis=1)
        for length in lengths
    )


def _column(feature: Mapping[str, Any], length: int, rng: np.random.Generator) -> Floats:
    """Labels are drawn evenly, the unknown one among them; a tenth is missing where it may be."""
    if labels := feature.get("labels"):
        column = rng.integers(0, len(labels) + 1, length).astype(np.float32)
    else:
        drawn = rng.normal(feature.get("mean", 0.0), feature.get("std", 1.0), length)
        column = np.clip(drawn, feature.get("min"), feature.get("max")).astype(np.float32)
    if feature.get("missing"):
        column[rng.random(length) < MISSING] = np.nan
    return column


def arenas(opened: Opened) -> str:
    """The graphs load, step only their rows, and update arenas in place."""
    engine = opened.engine(MANY)
    try:
        probe(engine, opened.engine(FEW))
    except BadModel as error:
        raise TrainingError(str(error)) from error
    per_session = engine.state_bytes // (MANY + 1)
    return f"{len(engine.arenas)} states of {per_session} bytes a session, updated in place"


def single_parity(opened: Opened) -> str:
    """Single steps against the network's reference."""
    return _parity(opened, opened.stepped)


def cuda_parity(opened: Opened) -> str:
    """CUDA's graph of single steps against the CPU's, on whichever device."""
    graphs = opened.bundle.graphs
    if not {SINGLE, SINGLE_CUDA} <= graphs.keys():
        raise LeftOut("the bundle has no graph of single steps for CUDA")
    states = [(state.name, prod(state.shape)) for state in opened.manifest.states]
    ours, theirs = (
        replace(opened, bundle=replace(opened.bundle, graphs=alone))
        for alone in (
            with_cuda_single(graphs, states, opened.device),
            with_single(graphs, SINGLE),
        )
    )
    return _within(opened, ours.stepped, theirs.stepped, SINGLE)


def step_parity(opened: Opened) -> str:
    """Ragged chunks against the network's reference."""
    return _parity(opened, chunks(opened, opened.engine()))


def ragged(opened: Opened) -> str:
    """Ragged chunks with rubbish for padding against single steps."""
    _more_than_one(opened.manifest.max_chunk, "the bundle steps no chunks")
    return _within(opened, chunks(opened, opened.engine()), opened.stepped, "single steps")


def neighbours(opened: Opened) -> str:
    """Sessions stepped together against each alone."""
    _more_than_one(opened.manifest.max_batch, "the bundle steps one session at a time")
    few = replace(opened, signals=tuple(each[:40] for each in opened.signals))
    engine = few.engine()
    together = by_single_steps(engine, few.signals)
    alone = [by_single_steps(engine, [signal])[0] for signal in few.signals]
    return _within(opened, together, alone, "the same sessions stepped alone")


def missing(opened: Opened) -> str:
    """NaN in every feature that may be missing, at every step."""
    may = opened.manifest.may_miss
    if not may.any():
        raise LeftOut("no feature may be missing")
    signals = tuple(np.where(may, np.float32(np.nan), each) for each in opened.signals)
    holes = replace(opened, signals=signals)
    outputs = holes.stepped
    if not all(np.isfinite(each).all() for each in outputs):
        raise TrainingError("missing features make an output that is not finite")
    agrees = "" if opened.network is None else "; " + _parity(holes, outputs)
    return f"{int(may.sum())} features may be missing, outputs stay finite{agrees}"


def quantiles(opened: Opened) -> str:
    """Of each value a higher quantile never lies below a lower one, by single steps and chunks, on
    signals as they lie and a thousand times as large."""
    groups = _quantiles(opened.raw["outputs"])
    if not groups:
        raise LeftOut("no output is a quantile")
    large = replace(opened, signals=tuple(np.float32(1000) * each for each in opened.signals))
    for each in (opened, large):
        for found in (each.stepped, chunks(each, each.engine())):
            outputs = np.concatenate(found)
            for name, places in groups.items():
                if (np.diff(outputs[:, places], axis=1) < 0).any():
                    raise TrainingError(f"quantiles of {name!r} cross")
    return f"quantiles of {', '.join(map(repr, groups))} never cross"


def _quantiles(outputs: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """The places of each value's quantiles, by their levels."""
    found, start = dict[str, list[tuple[float, int]]](), 0
    for output in outputs:
        if isinstance(output.get("quantile"), float):
            found.setdefault(str(output.get("of")), []).append((output["quantile"], start))
        start += int(output["size"])
    return {name: [place for _, place in sorted(pairs)] for name, pairs in found.items()}


def round_trip(opened: Opened) -> str:
    """What is written into slots is read from them, and nothing else changes."""
    engine, rng = opened.engine(), np.random.default_rng(0)
    every, chosen = np.arange(1, 9), np.array([6, 2, 3])
    before = engine.read(every)
    new = [rng.normal(size=(len(chosen), *old.shape[1:])).astype(old.dtype) for old in before]
    engine.write(chosen, new)
    expected = [old.copy() for old in before]
    for old, written in zip(expected, new, strict=True):
        old[chosen - every[0]] = written
    if not all(map(np.array_equal, engine.read(every), expected)):
        raise TrainingError("what write.onnx wrote is not what read.onnx reads")
    return "read and write move rows exactly"


def chunks(opened: Opened, engine: Engine) -> list[Floats]:
    """What an engine puts out for them by ragged chunks."""
    rng = np.random.default_rng(1)
    return [each for group in opened.groups() for each in by_chunks(engine, group, rng)]


def _parity(opened: Opened, outputs: Sequence[Floats]) -> str:
    return _within(opened, outputs, opened.expected, "the reference")


def _within(
    opened: Opened,
    found: Sequence[NDArray[np.floating]],
    expected: Sequence[NDArray[np.floating]],
    what: str,
) -> str:
    apart = np.abs(np.concatenate(found) - np.concatenate(expected)) / opened.scale(expected)
    largest = float(apart.max())
    if not largest <= opened.limit:
        raise TrainingError(f"outputs differ from {what} by {largest:.1e}, "
                            f"more than {opened.limit:.0e}")  # fmt: skip
    return f"within {largest:.1e} of {what} (limit {opened.limit:.0e})"


def _more_than_one(count: int, reason: str) -> None:
    if count < 2:
        raise LeftOut(reason)


def poison(opened: Opened) -> str:
    """One row of a batch becomes NaN, by a single step and in the middle of a chunk.

    Raises:
        TrainingError: a neighbour's output or state changes, or the row's own state does.
    """
    feature = _poisonable(opened)
    widths = sorted({1, opened.manifest.max_chunk})
    for width in widths:
        _check(opened, feature, width)
    name = opened.manifest.features[feature].name
    return f"NaN in {name!r} by chunks of {widths} left its own state and all others"


def _poisonable(opened: Opened) -> int:
    if opened.manifest.max_batch < ROWS:
        raise LeftOut("the bundle steps one session at a time")
    for k, feature in enumerate(opened.manifest.features):
        if not (feature.missing or feature.labels):
            return k
    raise LeftOut("every feature may be missing")


def _check(opened: Opened, feature: int, width: int) -> None:
    good = _chunk(opened, width)
    bad = good.copy()
    bad[VICTIM, width // 2, feature] = np.nan
    slots = np.arange(1, ROWS + 1, dtype=np.int64)
    untouched, poisoned = (_warm(opened) for _ in range(2))
    before = poisoned.read(slots)
    expected, got = _step(untouched, good), _step(poisoned, bad)
    others = np.arange(ROWS) != VICTIM
    pairs = list(zip(untouched.read(slots), poisoned.read(slots), before, strict=True))
    if not _same(expected[others], got[others]) or not all(
        _same(ours[others], theirs[others]) for ours, theirs, _ in pairs
    ):
        raise TrainingError(f"a poisoned row changes its neighbours, by chunks of {width}")
    swallowed = opened.network is None and np.isfinite(got[VICTIM]).all()
    if not swallowed and not all(_same(after[VICTIM], old[VICTIM]) for _, after, old in pairs):
        raise TrainingError(f"a poisoned row loses its own state, by chunks of {width}")


def _chunk(opened: Opened, width: int) -> Floats:
    """The steps after `BEFORE` of the first sessions, without holes [ROWS, width, F]."""
    whole = np.concatenate([np.nan_to_num(signal) for signal in opened.signals])
    wanted = np.arange(ROWS * width) % len(whole)
    return whole[wanted].reshape(ROWS, width, -1)


def _warm(opened: Opened) -> Engine:
    """An engine whose sessions have come some way, so that their states differ."""
    engine = opened.engine(ROWS)
    by_single_steps(engine, [signal[:BEFORE] for signal in opened.signals[:ROWS]])
    return engine


def _step(engine: Engine, features: Floats) -> Floats:
    return engine.run(rows(range(ROWS), features, np.zeros(ROWS, np.bool_)))


def _same(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> bool:
    return np.array_equal(ours, theirs)


CHECKS: dict[str, Callable[[Opened], str]] = {
    "arenas": arenas,
    "single.onnx": single_parity,
    "single.cuda.onnx": cuda_parity,
    "step.onnx": step_parity,
    "ragged chunks": ragged,
    "neighbours": neighbours,
    "poisoned row": poison,
    "missing features": missing,
    "quantiles": quantiles,
    "read and write": round_trip,
}
