"""A stream's lanes: small numbers that name sessions, kept as columns so that rows map at once."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from server.api.errors import Details, Problems
from server.arrays import lengthened
from server.errors import BadInput, ServingError
from server.scheduler.submission import Handles
from server.serving.model import ServedModel
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import MAX_LANES, MAX_OPENS

AT_ONCE = 16  # lanes to name between two yields
NONE: Problems = {}


def wanted(requests: Sequence[pb.LaneOpen]) -> dict[str, bool]:
    """The sessions that lanes are to name, and whether each is to be opened; none where there are
    too many, since none will be named."""
    if len(requests) > MAX_OPENS:
        return {}
    names = {each.session_id: False for each in requests if each.lane < MAX_LANES}
    names |= {each.session_id: True for each in requests if each.create and each.lane < MAX_LANES}
    return names


class Lanes:
    """The lanes of one stream, all of one model version. Used by the stream's transport alone, one
    message after the other.

    Low numbers have a column, which grows with how many lanes are named; numbers far above that are
    kept one by one.
    """

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self._near = np.zeros(64, dtype=np.int64)  # handles; 0: the lane names nothing
        self._far: dict[int, int] = {}
        self._named = 0

    def handle(self, lane: int) -> int:
        """The session of a lane, 0 where it names none."""
        return int(self._near[lane]) if lane < len(self._near) else self._far.get(lane, 0)

    def handles(self, lanes: NDArray[np.uint32]) -> Handles:
        """The sessions of the lanes, 0 where a lane names none."""
        try:
            return self._near[lanes]
        except IndexError:  # some are far
            near = lanes < len(self._near)
        handles = np.zeros(len(lanes), dtype=np.int64)
        handles[near] = self._near[lanes[near]]
        far = np.flatnonzero(~near)
        if self._far:
            handles[far] = [self._far.get(lane, 0) for lane in lanes[far].tolist()]
        return handles

    def open(
        self, requests: Sequence[pb.LaneOpen], problems: Problems = NONE
    ) -> Generator[None, None, list[pb.LaneOpened]]:
        """Name lanes, opening their sessions if asked to; one that cannot be named names nothing.
        Yields now and then. `problems` tells of sessions that the store could not give.

        Raises:
            BadInput: there are too many; none is named.
        """
        if len(requests) > MAX_OPENS:
            text = f"{len(requests)} lanes to name in a message; at most {MAX_OPENS} go in one"
            raise BadInput(text, field="opens")
        opened: list[pb.LaneOpened] = []
        details = Details(self.model.metrics.error)
        for request in requests:
            opened.append(self._try_open(request, problems, details))
            if len(opened) % AT_ONCE == 0:
                yield
        return opened

    def _try_open(
        self, request: pb.LaneOpen, problems: Problems, details: Details
    ) -> pb.LaneOpened:
        try:
            if (problem := problems.get(request.session_id)) is not None:
                raise problem
            return self._open(request)
        except ServingError as error:
            self._set(request.lane, 0)  # its rows must not step the session it named before
            return pb.LaneOpened(lane=request.lane, error=details.of(error))

    def _open(self, request: pb.LaneOpen) -> pb.LaneOpened:
        if request.lane >= MAX_LANES:
            text = f"lane {request.lane} is above {MAX_LANES - 1}"
            raise BadInput(text, field="opens.lane")
        handle, steps, created = self.model.attach(request.session_id, request.create)
        self._set(request.lane, handle)
        durable, life = self.model.directory.told(handle)
        return pb.LaneOpened(
            lane=request.lane, steps=steps, created=created, durable_step=durable, life=life
        )

    def _set(self, lane: int, handle: int) -> None:
        if lane >= len(self._near) and handle:
            self._grow(lane)
        if lane < len(self._near):
            self._named += int(handle != 0) - int(self._near[lane] != 0)
            self._near[lane] = handle
        elif handle:
            self._far[lane] = handle
        else:
            self._far.pop(lane, None)

    def _grow(self, lane: int) -> None:
        """The column may be some eight times as long as there are lanes."""
        if lane >= 4 * (self._named + len(self._far) + 1):
            return
        more = max(len(self._near), lane + 1 - len(self._near))  # it doubles at least
        self._near = lengthened(self._near, len(self._near) + more)
        for each in [far for far in self._far if far < len(self._near)]:
            self._near[each] = self._far.pop(each)
            self._named += 1
