"""The client's side of a stream's lanes: which small number names which session.

A lane keeps its session over reconnections; what is forgotten is that the server knows it.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_LANES = 1 << 20  # the server's limit


class Lanes:
    """Lanes of one model version. When all are taken, the longest unused is named anew."""

    def __init__(self, limit: int = MAX_LANES) -> None:
        self._limit = limit
        self.names: list[str] = []
        self.creates: list[bool] = []
        """Whether naming the lane opens the session if it is not live."""
        self.known = bytearray(64)
        """Which lanes the server knows on the present connection: 1 or 0."""
        self._by_name: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def crowded(self) -> bool:
        """Whether lanes may be named anew soon, so that each use must be told to `lane`."""
        return len(self.names) > self._limit // 2

    def lane(self, session_id: str, create: bool = False) -> int:
        """The session's lane, a new one if it has none."""
        lane = self._by_name.get(session_id)
        if lane is not None and self.crowded:
            self._by_name[session_id] = self._by_name.pop(session_id)  # the latest used comes last
        if lane is None:
            lane = self._place()
            self.names[lane], self.creates[lane] = session_id, create
            self._by_name[session_id] = lane
        return lane

    def release(self, session_id: str) -> None:
        """The session is over: its lane may name another."""
        lane = self._by_name.pop(session_id, None)
        if lane is not None:
            self.names[lane], self.known[lane] = "", 0
            self._free.append(lane)

    def forget(self) -> None:
        """A new connection: the server knows no lane."""
        self.known = bytearray(len(self.known))

    def name(self, lanes: Sequence[int]) -> list[int]:
        """Those of `lanes` that the server must be told of, and from now on knows."""
        known = self.known
        unknown = list(dict.fromkeys([lane for lane in lanes if not known[lane]]))
        for lane in unknown:
            known[lane] = 1
        return unknown

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self.names) == self._limit:
            self.release(next(iter(self._by_name)))
            return self._free.pop()
        lane = len(self.names)
        self.names.append("")
        self.creates.append(False)
        if lane == len(self.known):
            self.known.extend(bytes(lane))
        return lane
