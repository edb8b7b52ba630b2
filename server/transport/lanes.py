"""A stream's lanes: small numbers that name sessions, kept as columns so that rows map at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.errors import BadInput, ServingError
from server.sessions.served_model import ServedModel
from server.transport.translate import detail
from tidegate.v1 import tidegate_pb2 as pb

MAX_LANES = 1 << 20
MAX_OPENS = 1 << 16  # in one message


class Lanes:
    """The lanes of one stream, all of one model version."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._slots = np.zeros(0, dtype=np.int64)  # 0: the lane names nothing
        self._generations = np.zeros(0, dtype=np.int64)
        self._ids: dict[int, str] = {}
        self._lent = False  # to rows under way, which keep the names they came with

    @property
    def ids(self) -> dict[int, str]:
        """The session ids by lane; what this dictionary says of a lane, it goes on saying."""
        self._lent = True
        return self._ids

    def open(self, requests: Sequence[pb.LaneOpen]) -> list[pb.LaneOpened]:
        """Name lanes, opening their sessions if asked to; one that cannot be named names nothing.

        Raises:
            BadInput: there are too many; none is named.
        """
        if len(requests) > MAX_OPENS:
            text = f"{len(requests)} lanes to name in a message; at most {MAX_OPENS} go in one"
            raise BadInput(text, field="opens")
        return [self._try_open(request) for request in requests]

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

    def _try_open(self, request: pb.LaneOpen) -> pb.LaneOpened:
        try:
            return self._open(request)
        except ServingError as error:
            self._forget(request.lane)
            self._model.metrics.error(error.code, error.reason)
            return pb.LaneOpened(lane=request.lane, error=detail(error))

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
        self._part_from_lent(request.lane)
        self._ids[request.lane] = request.session_id
        return pb.LaneOpened(lane=request.lane, steps=info.steps, created=created)

    def _forget(self, lane: int) -> None:
        """Its rows must not step the session that the lane named before."""
        if lane in self._ids:
            self._slots[lane] = 0
            self._part_from_lent(lane)
            del self._ids[lane]

    def _part_from_lent(self, lane: int) -> None:
        if self._lent and lane in self._ids:
            self._ids, self._lent = dict(self._ids), False

    def _grow(self, lane: int) -> None:
        if lane >= len(self._slots):
            more = max(lane + 1, 2 * len(self._slots), 64) - len(self._slots)
            self._slots = np.pad(self._slots, (0, more))
            self._generations = np.pad(self._generations, (0, more))
