"""The engine: one model's arenas and graphs, and the one call that steps rows of sessions.

While serving, whoever holds its scheduler's lock is its only caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.bundle import manifest as files
from server.bundle.manifest import State
from server.bundle.repository import Bundle
from server.engine.arena import Arena
from server.engine.device import Device
from server.engine.graph import BoundGraph, BoundRows, GraphError, first_line, open_session
from server.errors import BadModel

Floats = NDArray[np.float32]

TYPES = {
    "float64": "tensor(double)", "float32": "tensor(float)",
    **{each: f"tensor({each})" for each in ("float16", "int64", "int32", "bool")},
}  # fmt: skip
"""The manifest's types as onnxruntime calls them."""


@dataclass(slots=True)
class EngineRows:
    """Rows of one run, no slot twice: slots i64 [B], fresh bool [B], lengths i32 [B] (1..T),
    features f32 [B, T, I]."""

    slots: NDArray[np.int64]
    fresh: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    features: Floats

    @property
    def steps(self) -> int:
        """Steps in all rows."""
        return len(self.slots) if self.features.shape[1] == 1 else int(self.lengths.sum())


class Asked(Protocol):
    """A run that was asked for; waited for in the order in which all were."""

    def over(self) -> bool:
        """Whether nobody would wait for its outputs."""

    def outputs(self) -> Floats:
        """Its outputs f32 [B, T, O], once they have come."""


@dataclass(frozen=True, slots=True)
class Done:
    """A run that was over as soon as it was asked for."""

    found: Floats

    def over(self) -> bool:
        """As it is."""
        return True

    def outputs(self) -> Floats:
        """As `Asked.outputs`."""
        return self.found


class Graph(Protocol):
    """A graph over the arenas (see `BoundGraph`)."""

    options: onnxruntime.RunOptions | None

    def run(self, feeds: Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]: ...


class SingleSteps(Protocol):
    """The graph of single steps, its buffers bound before (see `BoundRows`)."""

    options: onnxruntime.RunOptions | None

    def run(
        self, slots: NDArray[Any], fresh: NDArray[Any], rows: NDArray[Any], /
    ) -> NDArray[Any]: ...


class StateArena(Protocol):
    """One state's buffer, and what it holds of memory (see `Arena`)."""

    name: str
    nbytes: int

    @property
    def address(self) -> int: ...


class Engine:
    """Holds the state of `capacity` sessions in slots 1..capacity and steps them.

    This one does so on the CPU; `open_engine` makes the one that a device needs.

    Raises:
        BadModel: a graph does not load or does not have the bundle's inputs and outputs.
    """

    any_thread = True
    """Whether any thread may run it, one at a time, after `begin` as before."""
    lost = False
    """Whether what it runs on has failed for good."""

    def __init__(self, bundle: Bundle, device: Device, capacity: int, threads: int = 1) -> None:
        self.manifest = bundle.manifest
        self.device, self.capacity, self._threads = device, capacity, threads
        self.arenas = [self._arena(state) for state in bundle.manifest.states]
        self._step = self._bind(bundle, files.STEP)
        self._single = self._step_alone(bundle)
        self._bound = self._rows_bound()
        rows = [f"row.{arena.name}" for arena in self.arenas]
        self._read = self._bind(bundle, files.READ, rows, writes=False)
        self._write = self._bind(bundle, files.WRITE, [])

    def begin(self) -> None:
        """The calling thread is the one that runs this engine from now on, unless any may.

        Raises:
            BadModel: the device cannot be made ready.
        """

    @property
    def state_bytes(self) -> int:
        """Bytes of device memory in the arenas."""
        return sum(arena.nbytes for arena in self.arenas)

    def run(self, rows: EngineRows) -> Floats:
        """Step the rows and return their outputs f32 [B, T, O], NaN where a row overflowed."""
        feeds = {"slots": rows.slots, "fresh": rows.fresh}
        if rows.features.shape[1] == 1 and self._single is not None:
            flat = rows.features.reshape(len(rows.slots), -1)
            if self._bound is not None:
                return self._bound.run(rows.slots, rows.fresh, flat)[:, None, :]
            return self._single.run(feeds | {"input": flat})[0][:, None, :]
        return self._step.run(feeds | {"input": rows.features, "lengths": rows.lengths})[0]

    def overlaps(self, rows: EngineRows) -> bool:
        """Whether these may be asked for while the run before is under way, and are under way when
        they were asked for."""
        return False

    def ask(self, rows: EngineRows) -> Asked:
        """Have rows stepped as `run` does. What is asked for is done in that order; here at
        once."""
        return Done(self.run(rows))

    def read(self, slots: NDArray[np.int64]) -> list[NDArray[Any]]:
        """The rows of `slots`, one array `[B, *shape]` a state, of its dtype."""
        return self._read.run({"slots": slots})

    def write(self, slots: NDArray[np.int64], rows: list[NDArray[Any]]) -> None:
        """Put rows back into `slots`, as `read` returned them."""
        named = {f"row.{arena.name}": row for arena, row in zip(self.arenas, rows, strict=True)}
        self._write.run({"slots": slots} | named)

    def stop_with(self, options: onnxruntime.RunOptions | None) -> None:
        """Runs end with an error once the options say so; None: they run to their end."""
        for each in (self._step, self._single, self._bound, self._read, self._write):
            if each is not None:
                each.options = options

    def release(self) -> None:
        """Give back the graphs and the arenas' memory; nothing can be run any more."""
        self.arenas.clear()
        del self._step, self._single, self._bound, self._read, self._write

    def _arena(self, state: State) -> StateArena:
        try:
            return self._make_arena(state)
        except (MemoryError, RuntimeError, ValueError) as error:
            text = f"state {state.name!r} of {self.capacity} sessions"
            raise BadModel(f"{self._where}: no room for {text}: {error}") from error

    @property
    def _where(self) -> str:
        return f"{self.manifest.name}/{self.manifest.version}"

    def _make_arena(self, state: State) -> StateArena:
        return Arena(state, self.capacity + self.device.spare_rows)

    def _step_alone(self, bundle: Bundle) -> Graph | None:
        """The graph without a time axis, where the bundle has one: faster for single steps."""
        return self._bind(bundle, files.SINGLE) if files.SINGLE in bundle.graphs else None

    def _rows_bound(self) -> SingleSteps | None:
        if not isinstance(self._single, BoundGraph):
            return None
        manifest, arenas = self.manifest, [each for each in self.arenas if isinstance(each, Arena)]
        most = min(manifest.max_batch, self.capacity)
        return BoundRows(
            self._single.session, arenas, most, manifest.inputs_width, manifest.outputs_width
        )

    def _bind(
        self, bundle: Bundle, name: str, outputs: Sequence[str] = ("output",), writes: bool = True
    ) -> Graph:
        with self._told(name):
            return self._graph(bundle.graphs[name], outputs, writes)

    def _graph(self, graph: bytes, outputs: Sequence[str], writes: bool) -> Graph:
        session = open_session(graph, self.device, self._threads)
        check_types(session, self.manifest.states)
        arenas = [each for each in self.arenas if isinstance(each, Arena)]
        return BoundGraph(session, arenas, outputs, writes)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Whatever is wrong with a graph is told of the bundle's file."""
        try:
            yield
        except (GraphError, RuntimeError, ValueError) as error:
            raise BadModel(f"{self._where}/{name} cannot be used: {first_line(error)}") from error


def check_types(session: onnxruntime.InferenceSession, states: Iterable[State]) -> None:
    """Whatever lies in a buffer of ours is of the type that the graph writes there."""
    wanted = {"output": "float32"}
    for state in states:  # of which all are of one type where a graph takes them in one
        wanted |= dict.fromkeys(("states", "states.next"), state.dtype)
        names = (f"state.{state.name}", f"state.{state.name}.next", f"row.{state.name}")
        wanted |= dict.fromkeys(names, state.dtype)
    for edge in (*session.get_inputs(), *session.get_outputs()):
        name = edge.name[:100]
        if edge.name in wanted and edge.type != TYPES[wanted[edge.name]]:
            raise GraphError(f"{name!r} is {edge.type}, model.json says {wanted[edge.name]}")
