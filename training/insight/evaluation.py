"""What is looked at, and what it puts out: the bundle's network, its manifest, the data it came of,
read anew, and the outputs of its own graphs on the held-out sessions. All figures rest on these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.device import choose
from server.engine.engine import Engine
from server.errors import BadModel
from training.bundle import split_of
from training.errors import TrainingError
from training.figures import rmse
from training.graphs.stepping import by_chunks, serve
from training.graphs.whole import Form
from training.network import FILE, Floats, Network, network_from_bytes
from training.recipe.recipe import Recipe, from_mapping
from training.table.dataset import load
from training.table.session import Dataset, Session, Target

TOGETHER = 256
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """`manifest` is model.json as it stands; its `training` holds provenance, figures and curve."""

    name: str
    manifest: Mapping[str, Any]
    network: Network
    recipe: Recipe
    dataset: Dataset

    @property
    def held_out(self) -> tuple[Session, ...]:
        """The sessions to measure by."""
        return self.dataset.held_out[1]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The manifest's `training`."""
        provenance: Mapping[str, Any] = self.manifest["training"]
        return provenance

    def engine(self, sessions: int) -> Engine:
        """The bundle's graphs, as the server would run them.

        Raises:
            TrainingError: they do not run here.
        """
        form = Form(**self.manifest["export"]["form"])
        try:
            return serve(self.network, form, sessions, choose("auto"))
        except BadModel as error:
            raise TrainingError(f"{self.name}: its graphs do not run here: {error}") from error


def open_subject(folder: Path) -> Subject:
    """Read a bundle that `fit` wrote, .../NAME/VERSION, and its data.

    Raises:
        TrainingError: it is no such bundle, or its data cannot be read or is another by now.
    """
    manifest, network, recipe = read_bundle(folder)
    trained_on = manifest["training"]["data"]
    dataset = load(recipe)
    if dataset.source != trained_on:
        raise TrainingError(f"{folder} was trained on {trained_on}; what is read now is "
                            f"{dataset.source}")  # fmt: skip
    return Subject(f"{manifest['name']}/{manifest['version']}", manifest, network, recipe, dataset)


def read_bundle(folder: Path) -> tuple[Mapping[str, Any], Network, Recipe]:
    """The manifest (with all names of its split), the weights and the recipe of a bundle that `fit`
    wrote.

    Raises:
        TrainingError: it is no such bundle.
    """
    try:
        manifest = json.loads((folder / "model.json").read_bytes())
        if "import" in manifest:
            raise TrainingError(f"{folder} was imported: there is no recipe, data or network to "
                                "look at; verify works on it")  # fmt: skip
        network = network_from_bytes((folder / FILE).read_bytes())
        recipe = from_mapping(manifest["training"]["recipe"])
        _ = manifest["training"]["data"]
        manifest["training"]["split"] = split_of(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is no bundle that fit wrote: {error!r}") from error
    return manifest, network, recipe


@dataclass(frozen=True)
class Track:
    """One value over a session: y [T], NaN where it is not known, and guess [T]."""

    session: str
    y: Doubles
    guess: Doubles

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Where there is something to measure by, [T]."""
        return ~np.isnan(self.y)

    @cached_property
    def rmse(self) -> float:
        """Over the steps known."""
        return rmse(self.guess[self.known], self.y[self.known])


@dataclass(frozen=True)
class Value:
    """One predicted value: its tracks are the sessions that have a known step of it."""

    name: str
    unit: str
    horizon: int
    tracks: tuple[Track, ...]

    @cached_property
    def true(self) -> Doubles:
        """All known steps, [N]."""
        return np.concatenate([track.y[track.known] for track in self.tracks])

    @cached_property
    def guess(self) -> Doubles:
        """What was predicted at them, [N]."""
        return np.concatenate([track.guess[track.known] for track in self.tracks])


@dataclass(frozen=True)
class Evaluation:
    """Sessions of the part `part` that have a target, with the outputs [T, O] on each."""

    part: str
    target: Target
    sessions: tuple[Session, ...]
    outputs: tuple[Floats, ...]

    def steps(self) -> tuple[Indices, Floats]:
        """Of all steps whose class is known: the class [N] and the probabilities [N, C]."""
        y = np.concatenate([session.y[:, 0] for session in self.sessions])
        known = ~np.isnan(y)
        return y[known].astype(np.int64), np.concatenate(self.outputs)[known]

    def ends(self) -> tuple[Indices, Floats]:
        """The same of each session's last step whose class is known."""
        last = [np.flatnonzero(~np.isnan(session.y[:, 0]))[-1] for session in self.sessions]
        pairs = list(zip(last, self.sessions, self.outputs, strict=True))
        y = np.array([session.y[t, 0] for t, session, _ in pairs])
        return y.astype(np.int64), np.stack([outputs[t] for t, _, outputs in pairs])

    def value(self, k: int) -> Value:
        """The value `k`."""
        singles = map(self.target.single, self.outputs)
        tracks = [
            Track(session.name, session.y[:, k].astype(np.float64), outputs[:, k].astype(float))
            for session, outputs in zip(self.sessions, singles, strict=True)
        ]
        known = tuple(track for track in tracks if track.known.any())
        return Value(self.target.names[k], self.target.units[k], self.target.horizons[k], known)


def evaluate(subject: Subject) -> Evaluation:
    """Step every held-out session whole, from a fresh state, in the form the bundle is written in.

    Raises:
        TrainingError: no held-out step has a target, or the graphs do not run here.
    """
    part, every = subject.dataset.held_out
    sessions = tuple(session for session in every if not np.isnan(session.y).all())
    if not sessions:
        raise TrainingError(f"{subject.name}: no session of the {part} part has a known target")
    return Evaluation(part, subject.dataset.target, sessions, tuple(outputs_of(subject, sessions)))


def outputs_of(subject: Subject, sessions: Sequence[Session]) -> list[Floats]:
    """The outputs [T, O] of the bundle's graphs on each session.

    Raises:
        TrainingError: they do not run here.
    """
    rng, found = np.random.default_rng(0), list[Floats]()
    engine = subject.engine(min(len(sessions), TOGETHER))
    for start in range(0, len(sessions), TOGETHER):
        signals = [session.x for session in sessions[start : start + TOGETHER]]
        found += by_chunks(engine, signals, rng)
    return found
