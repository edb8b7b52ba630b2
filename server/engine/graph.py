"""One ONNX graph bound to the arenas, so that a run moves only its rows and leaves states in place.

`state.K` and `state.K.next` are bound to the same buffer. onnxruntime's ScatterND skips its copy
when input and output are one, which it does not promise: `probe` checks it at load.

Every model that onnxruntime gets to see comes through `open_session`, as bytes that were looked at.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.bundle.soundness import Unsound, check
from server.engine.arena import Arena
from server.engine.device import CUDA_PROVIDER, Device

BINDINGS = 256  # numbers of rows whose bindings are kept
LOAD_SECONDS = 120.0
MAX_FOLDED = 1 << 21
"""Bytes of a constant that onnxruntime may compute from others while it loads a graph."""


SETTINGS = {
    "session.intra_op.allow_spinning": "0",
    "session.load_model_format": "ONNX",  # whatever the bytes look like
    "optimization.constant_folding_max_output_size_in_bytes": str(MAX_FOLDED),
}


class GraphError(RuntimeError):
    """The graph cannot be used; the message says why."""


def open_session(
    graph: bytes, device: Device, threads: int, more: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on `device`.

    Args:
        more: further options of CUDA's provider.

    Raises:
        GraphError: the graph is unsound, does not load, or takes too long to; or CUDA was asked for
            and onnxruntime fell back.
    """
    try:
        check(graph)
    except Unsound as error:
        raise GraphError(f"is unsound: it {error}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Batches change size at every run; a memory plan a shape would only pile up.
    options.enable_mem_pattern = False
    for key, setting in SETTINGS.items():
        options.add_session_config_entry(key, setting)
    late = threading.Timer(LOAD_SECONDS, options.set_load_cancellation_flag, [True])
    late.daemon = True
    late.start()
    try:
        session = onnxruntime.InferenceSession(
            graph, options, providers=device.providers_with(more or {})
        )
    except Exception as error:
        raise GraphError(f"does not load: {first_line(error)}") from error
    finally:
        late.cancel()
    if device.kind == "cuda" and CUDA_PROVIDER not in session.get_providers():
        raise GraphError("onnxruntime could not start CUDA; see its message above")
    return session


def first_line(error: Exception) -> str:
    """What onnxruntime says, without the lines on where in its code."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class BoundGraph:
    """A graph whose state inputs and outputs are the arenas themselves."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        arenas: Sequence[Arena],
        outputs: Sequence[str] = ("output",),
        writes: bool = True,
    ) -> None:
        self.session = session
        self.options: onnxruntime.RunOptions | None = None
        """What may stop a run."""
        self._binding: Any = session.io_binding()
        self._outputs = tuple(outputs)
        for name in self._outputs:  # bound first, so that they lead get_outputs()
            self._binding.bind_output(name, "cpu")
        for arena in arenas:
            self._binding.bind_ortvalue_input(f"state.{arena.name}", arena.value)
            if writes:
                self._binding.bind_ortvalue_output(f"state.{arena.name}.next", arena.value)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """One run; the arrays must be C-contiguous. Returns the plain outputs, on the host."""
        for name, array in feeds.items():
            self._binding.bind_cpu_input(name, array)
        for name in self._outputs:
            self._binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(self._binding, self.options)
        # copy_outputs_to_cpu() would copy the arenas as well; take the plain outputs alone.
        values = self._binding.get_outputs()
        return [np.asarray(values[k].numpy()) for k in range(len(self._outputs))]


class BoundRows:
    """The graph of single steps with buffers bound once for each number of rows: to bind them anew
    costs a run of few rows as much as half of the run."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        arenas: Sequence[Arena],
        most: int,
        inputs: int,
        outputs: int,
    ) -> None:
        self._session, self._arenas = session, arenas
        self.options: onnxruntime.RunOptions | None = None
        """As of `BoundGraph`."""
        self._slots, self._fresh = np.zeros(most, np.int64), np.zeros(most, np.bool_)
        self._input = np.zeros((most, inputs), np.float32)
        self._output = np.zeros((most, outputs), np.float32)
        self._bindings: OrderedDict[int, Any] = OrderedDict()

    def run(self, slots: NDArray[Any], fresh: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        """One step of each session: slots [B], fresh [B], rows [B, I]; their outputs [B, O]."""
        count = len(slots)
        self._slots[:count], self._fresh[:count], self._input[:count] = slots, fresh, rows
        binding = self._bindings.get(count) or self._bind(count)
        self._session.run_with_iobinding(binding, self.options)
        return self._output[:count].copy()

    def _bind(self, count: int) -> Any:
        """The first rows of every buffer."""
        if len(self._bindings) >= BINDINGS:
            self._bindings.popitem(last=False)
        binding = self._bindings[count] = self._session.io_binding()
        buffers = (("slots", self._slots), ("fresh", self._fresh), ("input", self._input))
        for name, buffer in buffers:
            binding.bind_ortvalue_input(name, _over(buffer[:count]))
        binding.bind_ortvalue_output("output", _over(self._output[:count]))
        for arena in self._arenas:
            binding.bind_ortvalue_input(f"state.{arena.name}", arena.value)
            binding.bind_ortvalue_output(f"state.{arena.name}.next", arena.value)
        return binding


def _over(buffer: NDArray[Any]) -> onnxruntime.OrtValue:
    """An OrtValue on top of the array itself, in the host's memory."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
