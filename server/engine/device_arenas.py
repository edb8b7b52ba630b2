"""Where the states lie on a GPU: each in a buffer of its own, or all of a session in one row.

Packed, K states of one shape and type lie in one buffer [N, K, *shape], and a graph that takes it
whole, as `states`, gathers once and scatters once in place of once a state. The other graphs need
not know: a row of theirs is as long as a state, so that from where state k begins, row s * K is
what slot s has of it. They are bound there, and are told K times each slot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from server.bundle import proto
from server.bundle.manifest import State
from server.engine.gpu import Stream, Tensor

PACKED = "states"
"""The input of a graph that takes all states in one tensor [N, K * values]."""
LARGEST = 2**31 - 1
"""Values of a tensor that CUDA's ScatterElements can tell apart: it counts them in 32 bits."""


@dataclass(frozen=True)
class Places:
    """What a graph's states are bound to, by the names of its inputs and of its outputs; and what
    it is told in place of each slot: so many times the slot."""

    states: dict[str, Tensor]
    after: dict[str, Tensor]
    stride: int = 1


class DeviceArena:
    """The rows `[capacity + 2, *state.shape]` behind `state.<name>`, on a GPU, wherever they lie.

    Args:
        tensor: as a graph is bound to it that takes the state by itself.
    """

    def __init__(self, state: State, rows: int, tensor: Tensor) -> None:
        self.name, self.tensor = state.name, tensor
        self.nbytes = rows * nbytes_of(state)

    @property
    def address(self) -> int:
        """Where the first row begins."""
        return self.tensor.address


class DeviceArenas:
    """Makes the arenas of all states, and tells what a graph is to be bound to."""

    def __init__(self, states: Sequence[State], rows: int, stream: Stream, packed: bool) -> None:
        self._states, self._rows, self._stream, self._packed = states, rows, stream, packed
        self._stride = len(states) if packed else 1
        self._offsets = [k * nbytes_of(state) for k, state in enumerate(states)]  # in a row
        self._begin = 0  # of all rows, once the first state was made
        self._made: list[DeviceArena] = []

    def make(self, state: State) -> DeviceArena:
        """The next state's arena; the first takes the memory of all, if they are packed.

        Raises:
            CudaError: there is not that much.
        """
        begin, count = self._packed_rows(state) if self._packed else self._own_rows(state)
        tensor = Tensor(begin, np.dtype(state.dtype).type, (count, *state.shape))
        self._made.append(DeviceArena(state, self._rows, tensor))
        return self._made[-1]

    def _own_rows(self, state: State) -> tuple[int, int]:
        return self._stream.allocate(self._rows * nbytes_of(state)), self._rows

    def _packed_rows(self, state: State) -> tuple[int, int]:
        """Where they begin, and how many there are to the last slot's, the others' in between."""
        if not self._made:
            self._begin = self._stream.allocate(self._rows * self._stride * nbytes_of(state))
        return self._begin + self._offsets[len(self._made)], (self._rows - 1) * self._stride + 1

    def places(self, inputs: Collection[str]) -> Places:
        """For a graph with these inputs."""
        if PACKED in inputs and self._packed:
            width = len(self._states) * prod(self._states[0].shape)
            whole = Tensor(self._begin, self._made[0].tensor.dtype, (self._rows, width))
            return Places({PACKED: whole}, {f"{PACKED}.next": whole})
        states = {f"state.{each.name}": each.tensor for each in self._made}
        after = {f"{name}.next": tensor for name, tensor in states.items()}
        return Places(states, after, self._stride)


def nbytes_of(state: State) -> int:
    """Of one session."""
    return prod(state.shape) * np.dtype(state.dtype).itemsize


def takes_packed(graph: bytes) -> bool:
    """Whether a model takes all states in one. Of one that is malformed whoever opens it tells."""
    try:
        edges = proto.read(graph).get("graph", {}).get("input", ())
    except proto.Malformed:
        return False
    return any(each.get("name") == PACKED for each in edges)


def may_pack(states: Sequence[State]) -> bool:
    """Whether states may lie in one row."""
    return len({(state.shape, state.dtype) for state in states}) == 1


def largest(states: Sequence[State], rows: int, packed: bool) -> int:
    """Values in the largest tensor of states that a graph is bound to."""
    values = [prod(state.shape) for state in states]
    return rows * (sum(values) if packed else max(values))
