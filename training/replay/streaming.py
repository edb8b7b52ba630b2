"""Streams sessions through a server by the client library, side by side and in time order, a step
at a time, as the services that will call it do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate import Client, ClientOptions, Model, errors
from training.errors import TrainingError
from training.network import Floats
from training.replay.pace import Pace, turns_of
from training.table.session import Session


@dataclass(frozen=True)
class Place:
    """A model version on a server."""

    address: str
    name: str
    version: int
    options: ClientOptions


@dataclass(frozen=True)
class Streamed:
    """The outputs [T, O] of each session as a server gave them, and how long that took."""

    outputs: list[Floats]
    seconds: float


def stream(place: Place, manifest: Mapping[str, Any], sessions: Sequence[Session]) -> Streamed:
    """Step every session from its beginning. They are opened under names of their own, and closed.

    Raises:
        TrainingError: the server cannot be reached, refuses something, or serves a model of other
            features or outputs under that name.
    """
    try:
        return asyncio.run(_stream(place, manifest, sessions))
    except (errors.TidegateError, OSError, ExceptionGroup) as error:
        first = _first(error)
        if isinstance(first, errors.TidegateError | OSError):
            raise TrainingError(f"{place.address}: {first}") from error
        raise


def _first(error: Exception) -> Exception:
    """Of a group of tasks that failed, the one that failed first."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


async def _stream(
    place: Place, manifest: Mapping[str, Any], sessions: Sequence[Session]
) -> Streamed:
    async with Client(place.address, place.options) as client:
        model = await client.model(place.name, place.version)
        _check(place, model, manifest)
        turns, started = turns_of(sessions), monotonic()
        pace, run = Pace(turns), uuid.uuid4().hex[:12]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_play(client, model, f"replay-{run}-{k}", each, turns[k], pace))
                for k, each in enumerate(sessions)
            ]
        return Streamed([task.result() for task in tasks], monotonic() - started)


async def _play(
    client: Client,
    model: Model,
    session_id: str,
    session: Session,
    turns: NDArray[np.int64],
    pace: Pace,
) -> Floats:
    """One session. It is opened when its time has come, and closed after its last step."""
    outputs = list[Floats]()
    await pace.turn(int(turns[0]))
    async with client.session(model.name, session_id, version=model.version) as opened:
        for x, number in zip(_sent(session.x, model), turns.tolist(), strict=True):
            await pace.turn(number)
            outputs.append(await opened.step(x))
            pace.done(number)
    return np.stack(outputs)


def _sent(x: Floats, model: Model) -> Floats:
    """As callers send them: a category that training never saw is the index of none, for NaN says
    that nothing was observed."""
    sent = x.copy()
    for k, feature in enumerate(model.features):
        if feature.labels and not feature.missing:
            sent[np.isnan(x[:, k]), k] = len(feature.labels)
    return sent


def _check(place: Place, model: Model, manifest: Mapping[str, Any]) -> None:
    what = f"{place.address}: {model.name}/{model.version}"
    names = [feature["name"] for feature in manifest["features"]]
    served = [feature.name for feature in model.features]
    if served != names:
        raise TrainingError(f"{what} has the features {', '.join(served)}; "
                            f"the bundle's are {', '.join(names)}")  # fmt: skip
    outputs = [(output["name"], output["size"]) for output in manifest["outputs"]]
    given = [(output.name, output.size) for output in model.outputs]
    if given != outputs:
        raise TrainingError(f"{what} has other outputs than the bundle")
