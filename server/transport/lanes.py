"""A stream's lanes: small numbers that name sessions, kept as columns so that rows map at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.errors import BadInput, ServingError
from server.sessions.served_model import ServedModel
from server.transport.translate import detail
from tidegate.v1 import tidegate_pb2 as pb

MAX_LANES = 1 << 20


class Lanes:
    """The lanes of one stream, all of one model version."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._slots = np.zeros(0, dtype=np.int64)  # 0: the lane names nothing
        self._generations = np.zeros(0, dtype=np.int64)
        # Replaced when a lane is named again: rows under way keep the names they came with.
        self.ids: dict[int, str] = {}

    def open(self, request: pb.LaneOpen) -> pb.LaneOpened:
        """Name a lane, opening its session if asked to."""
        try:
            return self._open(request)
        except ServingError as error:
            self._model.metrics.error(error.code, error.reason)
            return pb.LaneOpened(lane=request.lane, error=detail(error))

    def known(self, lanes: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which of the lanes name a session."""
        known: NDArray[np.bool_] = lanes < len(self._slots)
        known[known] = self._slots[lanes[known]] != 0
        return known

    def locate(
        self, lanes: NDArray[np.uint32], known: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots and generations of the lanes; zeros where a lane is not known."""
        if known.all():
            return self._slots[lanes], self._generations[lanes]
        slots, generations = np.zeros((2, len(lanes)), dtype=np.int64)
        slots[known], generations[known] = (
            self._slots[lanes[known]],
            self._generations[lanes[known]],
        )
        return slots, generations

    def _open(self, request: pb.LaneOpen) -> pb.LaneOpened:
        if request.lane >= MAX_LANES:
            text = f"lane {request.lane} is above {MAX_LANES - 1}"
            raise BadInput(text, field="opens.lane")
        model, created = self._model, False
        if request.create:
            info, created = model.open(request.session_id)
        else:
            info = model.get(request.session_id)
        slot, generation = model.locate(request.session_id)
        self._grow(request.lane)
        self._slots[request.lane], self._generations[request.lane] = slot, generation
        if request.lane in self.ids:
            self.ids = dict(self.ids)
        self.ids[request.lane] = request.session_id
        return pb.LaneOpened(lane=request.lane, steps=info.steps, created=created)

    def _grow(self, lane: int) -> None:
        if lane >= len(self._slots):
            more = max(lane + 1, 2 * len(self._slots), 64) - len(self._slots)
            self._slots = np.pad(self._slots, (0, more))
            self._generations = np.pad(self._generations, (0, more))
