"""How large a message of each method may be, where that can be told: most are a few names, and a
step or a snapshot is as large as the models make it. What is larger is refused before it has come,
since to take 16 MB in, to copy and to parse them holds up everybody else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from server.api.parsing import INFER_BYTES
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.http2.incoming import USUAL
from server.transport.rpcs.calls import Handler
from server.transport.rpcs.services import (
    ADMIN,
    INFER,
    INFER_STREAM,
    SERVICE,
    STEP,
    STEP_STREAM,
)

ROOM: Final = 1 << 20
"""Bytes beside a snapshot's states: it may come from where more of the latest steps are kept."""
ANY: Final = frozenset(
    {f"/{SERVICE}/{each}" for each in ("OpenMany", "CloseMany")}
    | {STEP_STREAM, INFER_STREAM, f"/{ADMIN}/Migrate"}
)
"""Methods whose messages hold as much as callers like."""

Most = Callable[[], int | None]


def most(path: str, handler: Handler, registry: Registry) -> Most | None:
    """What tells the bytes of a method's largest message, or None for now; None if nothing can."""
    if path in ANY or handler.request_streaming:
        return None
    if path == INFER:
        return lambda: INFER_BYTES
    of_model = _BY_MODELS.get(path)
    if of_model is None:
        return lambda: USUAL
    return lambda: max(map(of_model, registry), default=None)


def _step(model: ServedModel) -> int:
    return USUAL + 4 * model.manifest.max_chunk * model.manifest.inputs_width


def _forecast(model: ServedModel) -> int:
    return USUAL + 4 * model.max_forecast * model.manifest.inputs_width


def _snapshot(model: ServedModel) -> int:
    states = model.manifest.states
    return ROOM + 2 * sum(np.dtype(s.dtype).itemsize * math.prod(s.shape) for s in states)


_BY_MODELS: Final = {
    STEP: _step,
    f"/{SERVICE}/Forecast": _forecast,
    f"/{SERVICE}/Import": _snapshot,
}
