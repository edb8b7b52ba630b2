"""Whether the fan of a forecast holds: quantiles so many steps ahead, where medians were fed back
as the server's `Forecast` feeds them, against what came.

Each step's quantiles are those of one step, were all before it as their medians say, so further
ahead the fan is too narrow. How much so is told. A list of horizons has a fan of its own for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from training.loop.module import State, StreamingNetwork
from training.network import Floats
from training.scoring.fans import Rolled, fans_of
from training.table.session import Dataset, Session

AHEAD = (2, 4, 8, 16)
PLACES, MOST_SESSIONS = 4, 200


def feeds_back(dataset: Dataset) -> bool:
    """Whether each feature is a value that is said of the next step, and quantiles are."""
    target = dataset.target
    fed = all(each.name in target.names and not each.labels for each in dataset.features)
    return bool(target.quantiles) and fed and set(target.horizons) == {1}


def rolled(network: StreamingNetwork, dataset: Dataset, sessions: Sequence[Session]) -> Rolled:
    """From a few steps of each session that is long enough; nothing where nothing is fed back, or a
    value is not known at those steps."""
    if not feeds_back(dataset):
        return {}
    chosen = [each for each in sessions if len(each) > 2 * AHEAD[-1]]
    chosen = chosen[:: -(-len(chosen) // MOST_SESSIONS) or 1]
    if not chosen:
        return {}
    target = dataset.target
    fed = [_median(dataset, each.name) for each in dataset.features]
    with torch.no_grad():
        outputs = [_outputs(network.eval(), each, fed) for each in chosen]
    found = {
        ahead: fans_of(
            target,
            [each[ahead - 1] for each in outputs],
            [each.y[_places(each) + ahead - 1] for each in chosen],
        )
        for ahead in AHEAD
    }
    return found if all(len(each) == len(target.names) for each in found.values()) else {}


def _median(dataset: Dataset, name: str) -> int:
    """The output that is fed back as the feature of that name."""
    return dataset.target.fan_names.index(name)


def _places(session: Session) -> np.ndarray:
    """Steps from which to look ahead, the last of which has all of it before the session's end."""
    last = len(session) - AHEAD[-1] - 1
    return np.unique(np.linspace(last // PLACES, last, PLACES).astype(int))


def _outputs(network: StreamingNetwork, session: Session, fed: list[int]) -> list[Floats]:
    """What is said from each place [P, O], 1 to the most steps ahead."""
    said, states = zip(*_reached(network, session), strict=True)
    state = tuple(torch.cat(each, dim=1) for each in zip(*states, strict=True))
    found = [torch.cat(said)]
    while len(found) < AHEAD[-1]:
        x = found[-1][:, None, fed]
        raw, state = network(x, state)
        found.append(network.in_units(x, raw)[:, 0])
    return [each.numpy() for each in found]


def _reached(network: StreamingNetwork, session: Session) -> Iterator[tuple[Tensor, State]]:
    """The outputs [1, O] and the state at each place, stepped from the session's beginning."""
    state, start = None, 0
    for place in _places(session).tolist():
        x = torch.from_numpy(session.x[start : place + 1])[None]
        raw, state = network(x, state)
        yield network.in_units(x, raw)[:, -1], state
        start = place + 1
