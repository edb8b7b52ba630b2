"""What a CUDA engine stands on: a stream with memory on its device, and sessions that run there.

`Gpu` is the real one. Tests put a double in its place that does on the CPU what CUDA graphs do, so
that the logic above (`buckets`, `captured`, `transfers`) is driven without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.engine.cuda import CudaStream
from server.engine.device import FRUGAL, Device
from server.engine.graph import GraphError, open_session

Bytes = NDArray[np.uint8]

GRAPH_ID = "gpu_graph_id"
EAGER = -1  # the id under which onnxruntime neither captures nor replays
NO_SYNC = "disable_synchronize_execution_providers"
ROUND = 256  # bytes, at multiples of which CUDA likes its arrays to begin


class Stream(Protocol):
    """Copies and runs, done in the order in which they are asked for (see `CudaStream`)."""

    @property
    def handle(self) -> int:
        """Its name with onnxruntime."""

    def use(self) -> None: ...
    def allocate(self, nbytes: int) -> int: ...
    def free(self, address: int) -> None: ...
    def pinned(self, nbytes: int) -> Bytes: ...
    def free_pinned(self, memory: Bytes) -> None: ...
    def copy_in(self, device: int, host: Bytes, nbytes: int) -> None: ...
    def copy_out(self, host: Bytes, device: int, nbytes: int) -> None: ...
    def wait(self) -> None: ...
    def event(self) -> int: ...
    def record(self, event: int) -> None: ...
    def wait_for(self, event: int) -> None: ...
    def has_come(self, event: int) -> bool: ...
    def is_lost(self) -> bool: ...
    def free_bytes(self) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Tensor:
    """A tensor in memory of ours, on the device if not said otherwise."""

    address: int
    dtype: Any
    shape: tuple[int, ...]
    on_host: bool = False


class GpuSession:
    """An onnxruntime session whose tensors all lie where they are told to.

    Args:
        captured: single runs of it are to be captured, which onnxruntime refuses of a graph that
            has nodes for the CPU.
        most: bytes that onnxruntime may take of the device's memory for it.

    Raises:
        GraphError: as `open_session`; or a state would be taken to the CPU at each run.
    """

    kind = "cuda"

    def __init__(
        self, graph: bytes, device: Device, threads: int, stream: Stream, captured: bool, most: int
    ) -> None:
        self.session = self._open(graph, device, threads, stream, captured, most)
        self.on_host = self._on_host()
        """Inputs that the graph wants in the host's memory, as an LSTM does its lengths. They must
        be bound there: what is bound on the device is copied as it is bound, before it has come."""
        self.stream, self._index = stream, device.index  # let go of last: the session runs on it

    def _open(
        self, graph: bytes, device: Device, threads: int, stream: Stream, captured: bool, most: int
    ) -> onnxruntime.InferenceSession:
        options = {
            "user_compute_stream": str(stream.handle),
            "gpu_mem_limit": str(most),
            # Buckets are captured from the largest to the smallest, so that what was taken will do.
            # Of sizes that vary, each larger one would take memory of its own for good, and so
            # onnxruntime is left to double what it has.
            **({"enable_cuda_graph": "1", **FRUGAL} if captured else {}),
        }
        return open_session(graph, device, threads, options)

    def _on_host(self) -> set[str]:
        session = self.session
        edges = (*session.get_inputs(), *session.get_outputs())
        places = (*session.get_input_memory_infos(), *session.get_output_memory_infos())
        found = {edge.name for edge, at in zip(edges, places, strict=True) if at.name != "Cuda"}
        for name in sorted(found):
            if name.startswith(("state.", "states")):
                raise GraphError(f"takes {name[:100]!r} to the CPU at each run")
        return found

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Any:
        """Where a run finds what it takes, and puts what it gives."""
        binding = self.session.io_binding()
        self.bind_inputs(binding, inputs)
        self.bind_outputs(binding, outputs)
        return binding

    def bind_inputs(self, binding: Any, inputs: Mapping[str, Tensor]) -> None:
        """Bind some of the inputs anew."""
        for name, each in inputs.items():
            where = ("cpu", 0) if each.on_host else (self.kind, self._index)
            binding.bind_input(name, *where, each.dtype, each.shape, each.address)

    def bind_outputs(self, binding: Any, outputs: Mapping[str, Tensor]) -> None:
        """Bind some of the outputs, after those that are bound."""
        for name, each in outputs.items():
            binding.bind_output(name, self.kind, self._index, each.dtype, each.shape, each.address)

    def leave_outputs(self, binding: Any, names: Sequence[str]) -> None:
        """Let onnxruntime find a place for these outputs, anew at each run."""
        for name in names:
            binding.bind_output(name, self.kind, self._index)

    def run(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        """Ask for a run; it is over once the stream is waited for."""
        self.session.run_with_iobinding(binding, options)


class Gpu:
    """A device with a stream of its own, for one engine."""

    session: type[GpuSession] = GpuSession

    def __init__(self, device: Device) -> None:
        self.device = device
        self.stream: Stream = CudaStream(device.index)

    def open(self, graph: bytes, threads: int, captured: bool, most: int) -> GpuSession:
        """A session on the stream."""
        return self.session(graph, self.device, threads, self.stream, captured, most)


def run_options(graph_id: int) -> onnxruntime.RunOptions:
    """For runs that are captured and replayed under an id, or for eager ones."""
    return marked(onnxruntime.RunOptions(), graph_id)


def marked(options: onnxruntime.RunOptions, graph_id: int) -> onnxruntime.RunOptions:
    """The same options, for runs of that id on our stream, which we wait for ourselves."""
    options.add_run_config_entry(GRAPH_ID, str(graph_id))
    options.add_run_config_entry(NO_SYNC, "1")
    return options


def rounded(nbytes: int) -> int:
    """Where the next array may begin."""
    return -(-nbytes // ROUND) * ROUND
