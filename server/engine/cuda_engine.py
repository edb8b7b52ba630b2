"""The engine on CUDA: arenas by cudaMalloc, single steps captured, the rest eager on one stream.

An arena has two rows more than sessions: row 0 is scratch, as on the CPU, and the last one is for
padding. How they lie is said by the graph of single steps (`device_arenas`). onnxruntime's own
memory holds weights and what comes between operators, and no state.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import clear_frames
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle import manifest as files
from server.bundle import proto
from server.bundle.manifest import State
from server.bundle.repository import Bundle
from server.engine import buckets
from server.engine.buckets import Bucket
from server.engine.captured import CapturedRows, Replay
from server.engine.cuda import CudaError
from server.engine.device import Device
from server.engine.device_arenas import (
    LARGEST,
    DeviceArena,
    DeviceArenas,
    Places,
    largest,
    may_pack,
    nbytes_of,
    takes_packed,
)
from server.engine.engine import Asked, Engine, EngineRows, Floats, Graph, check_types
from server.engine.gate import gate
from server.engine.gpu import Gpu, GpuSession
from server.engine.graph import GraphError, first_line
from server.engine.transfers import EagerGraph
from server.errors import BadModel

log = logging.getLogger(__name__)

INTEGER = {
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
    "MatMulInteger16", "MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul",
}  # fmt: skip
"""Products for which onnxruntime has no CUDA kernel, or none for these types: each would go to the
CPU and back."""
REFUSED = "graph capture feature"  # of what onnxruntime says of a graph with nodes for the CPU
SINGLES = (files.SINGLE_CUDA, files.SINGLE)


class WrongThread(RuntimeError):
    """An engine is run by another thread than its graphs belong to."""


class Released(RuntimeError):
    """An engine is run that holds nothing any more."""


class CudaEngine(Engine):
    """An engine on a GPU. Any thread may run it before `begin`; then that thread alone.

    Args:
        gpu: where it runs; a stream of its own on `device` if left out.

    Raises:
        BadModel: as `Engine`; or the device lacks the memory, or the graphs are in int8.
    """

    any_thread = False

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        capacity: int,
        threads: int = 1,
        gpu: Gpu | None = None,
    ) -> None:
        self._thread = 0
        self._uncaptured: list[tuple[str, bytes]] = []  # what `begin` is to capture
        self._busy, self._released = threading.Lock(), False
        with gate.long():
            try:
                self._gpu = gpu or Gpu(device)
                self._left = self._room_left(bundle, capacity)
            except CudaError as error:
                where = f"{bundle.manifest.name}/{bundle.manifest.version}"
                raise BadModel(f"{where}: {device.name} cannot be used: {error}") from error
            self._single_file, packed = self._choose_single(bundle, capacity)
            self._memory = DeviceArenas(
                bundle.manifest.states,
                capacity + device.spare_rows,
                self._gpu.stream,
                packed,
            )
            super().__init__(bundle, device, capacity, threads)

    def begin(self) -> None:
        """Capture the single steps, in this thread.

        Raises:
            BadModel: that cannot be done.
            WrongThread: another thread has begun.
        """
        self._check_thread()
        if self._thread:
            return
        self._gpu.stream.use()
        for name, graph in self._uncaptured if self.device.captures else ():
            try:
                self._capture(name, graph)
            except (GraphError, RuntimeError) as error:
                clear_frames(error.__traceback__)  # or it would keep a session beyond its stream
                why = f"cannot be captured: {first_line(error)}; it may be without (cuda_graphs)"
                raise BadModel(f"{self._where}/{name} {why}") from error
        self._uncaptured = []
        self._thread = threading.get_ident()

    @property
    def captured(self) -> bool:
        """Whether single steps are replayed, once it has begun."""
        return self._bound is not None

    def run(self, rows: EngineRows) -> Floats:
        """As `Engine.run`.

        Raises:
            WrongThread: another thread has begun; `read` and `write` raise it likewise.
        """
        with self.calling():
            return super().run(rows)

    def overlaps(self, rows: EngineRows) -> bool:
        """As `Engine.overlaps`: captured steps do, two of them; nothing else may come between."""
        return isinstance(self._bound, CapturedRows) and rows.features.shape[1] == 1

    def ask(self, rows: EngineRows) -> Asked:
        """As `Engine.ask`. Raises as `run`, and so does what is returned."""
        captured = self._bound
        if not isinstance(captured, CapturedRows) or rows.features.shape[1] > 1:
            return super().ask(rows)
        with self.calling():
            return UnderWay(self, captured.ask(rows.slots, rows.fresh, rows.features[:, 0]))

    def read(self, slots: NDArray[np.int64]) -> list[NDArray[Any]]:
        """As `Engine.read`."""
        with self.calling():
            return super().read(slots)

    def write(self, slots: NDArray[np.int64], rows: list[NDArray[Any]]) -> None:
        """As `Engine.write`."""
        with self.calling():
            super().write(slots, rows)

    def release(self) -> None:
        """As `Engine.release`; any thread may, once: a run that is under way comes to its end,
        though nobody can have its outputs any more."""
        with self._busy, gate.long():
            self._released = True
            self._gpu.stream.is_lost()  # which waits
            super().release()
            self._gpu.stream.close()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Call the device; where that fails, see whether it ever could again."""
        self._check_thread()
        with self._busy, gate:
            if self._released:
                raise Released(f"{self._where} has given its memory back")
            try:
                yield
            except Exception:
                self.lost = self._gpu.stream.is_lost()
                raise

    def _check_thread(self) -> None:
        if self._thread not in (0, threading.get_ident()):
            raise WrongThread(f"{self._where} is run by a thread that did not capture its graphs")

    def _room_left(self, bundle: Bundle, capacity: int) -> int:
        """What of the device's free memory is left for onnxruntime, once all of ours is taken."""
        manifest, free = bundle.manifest, self._gpu.stream.free_bytes()
        states = sum(
            (capacity + self._gpu.device.spare_rows) * nbytes_of(state) for state in manifest.states
        )
        most = min(manifest.max_batch, capacity)
        rows = buckets.nbytes_of(most, manifest.inputs_width, manifest.outputs_width)
        weights = sum(map(len, bundle.graphs.values()))
        if states + rows + weights > free:
            raise BadModel(
                f"{manifest.name}/{manifest.version}: no room for {capacity:,} sessions on "
                f"{self._gpu.device.name}: {states:,} bytes for states, {rows:,} for rows and "
                f"{weights:,} for graphs; {free:,} are free"
            )
        return free - states - rows

    def _choose_single(self, bundle: Bundle, capacity: int) -> tuple[str | None, bool]:
        """The graph of single steps: CUDA's own, or the CPU's in a bundle that has no other, and
        for arenas that are too large for CUDA's; and whether it takes all states in one.

        Raises:
            BadModel: it does so, and they cannot lie so.
        """
        manifest, rows = bundle.manifest, capacity + self._gpu.device.spare_rows
        where = f"{manifest.name}/{manifest.version}"
        for name in SINGLES:
            if name not in bundle.graphs:
                continue
            packed = takes_packed(bundle.graphs[name])
            if packed and not may_pack(manifest.states):
                raise BadModel(f"{where}/{name} takes all states in one tensor, and they are not "
                               "of one shape and type")  # fmt: skip
            if name == files.SINGLE or largest(manifest.states, rows, packed) <= LARGEST:
                return name, packed
            log.info("%s: %s is left out, for it counts to %d values", where, name, LARGEST)
        return None, False

    def _make_arena(self, state: State) -> DeviceArena:
        return self._memory.make(state)

    def _step_alone(self, bundle: Bundle) -> Graph | None:
        """Eager before `begin`."""
        name = self._single_file
        if name is None:
            return None
        self._uncaptured = [(name, bundle.graphs[name])]
        return self._bind(bundle, name)

    def _capture(self, name: str, graph: bytes) -> None:
        """In a session of its own, since what onnxruntime has for a thread it keeps where graphs
        are captured. Where it would run a part of the graph on the CPU, steps stay eager."""
        try:
            with gate.long():
                session = self._open(graph, captured=True)
                places = self._places(session)
                rows = CapturedRows(session, self._buckets(), places)
        except GraphError as error:
            if REFUSED not in str(error):
                raise
            log.info("%s/%s runs eagerly on CUDA: it %s", self._where, name, error)
            return
        rows.begin()
        with gate:
            self._single, self._bound = EagerGraph(session, places, ("output",)), rows

    def _buckets(self) -> list[Bucket]:
        """Of all sizes that a run may have; no two rows of one are of the same slot."""
        manifest, padding = self.manifest, self.capacity + 1
        return [
            Bucket(size, manifest.inputs_width, manifest.outputs_width, padding, self._gpu.stream)
            for size in buckets.sizes(min(manifest.max_batch, self.capacity))
        ]

    def _graph(self, graph: bytes, outputs: Sequence[str], writes: bool) -> Graph:
        session = self._open(graph)
        return EagerGraph(session, self._places(session), outputs, writes)

    def _open(self, graph: bytes, captured: bool = False) -> GpuSession:
        opened = self._gpu.open(graph, self._threads, captured, self._left)
        check_types(opened.session, self.manifest.states)
        found = sorted(INTEGER & operators_of(graph))
        if found:
            raise GraphError(
                f"has {found[0]}, which onnxruntime would take to the CPU and back at each run: "
                "on CUDA a bundle is served in float32 or float16, in int8 on the CPU alone"
            )
        return opened

    def _places(self, session: GpuSession) -> Places:
        return self._memory.places({each.name for each in session.session.get_inputs()})


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A run that the device was asked for."""

    engine: CudaEngine
    replay: Replay

    def over(self) -> bool:
        """As `Asked.over`."""
        with self.engine.calling():
            return self.replay.over()

    def outputs(self) -> Floats:
        """As `Asked.outputs`."""
        with self.engine.calling():
            return self.replay.outputs()[:, None]


def operators_of(graph: bytes) -> set[str]:
    """The names of all operators in a model."""
    return set(_operators(proto.read(graph).get("graph", {})))


def _operators(graph: proto.Message) -> Iterator[str]:
    """Those within others' attributes too."""
    for node in graph.get("node", ()):
        yield node.get("op_type", "")
        for each in node.get("attribute", ()):
            for body in [each["g"]] if "g" in each else each.get("graphs", ()):
                yield from _operators(body)
