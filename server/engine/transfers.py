"""Graphs that run eagerly on a GPU: ragged chunks, and rows in and out of the arenas.

What goes in is laid into one pinned block and copied at once, on the stream on which the graph
runs; what comes out is copied into another. Blocks grow with what is asked for, and stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.engine.device_arenas import Places
from server.engine.gpu import (
    EAGER,
    Bytes,
    GpuSession,
    Stream,
    Tensor,
    marked,
    rounded,
    run_options,
)

DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip
FIRST = 1 << 16  # bytes of a block at first


class EagerGraph:
    """A graph whose state inputs and outputs are the arenas themselves, as `BoundGraph` is.

    Args:
        places: where the arenas are.
        outputs: what else it gives, which is fetched.
        writes: whether it gives the arenas, too.
    """

    def __init__(
        self, session: GpuSession, places: Places, outputs: Sequence[str], writes: bool = True
    ) -> None:
        self.session, self._stride = session, places.stride
        self._stream, self._outputs = session.stream, tuple(outputs)
        self._binding = session.bind({}, {})
        session.leave_outputs(self._binding, self._outputs)  # so that they lead get_outputs()
        session.bind_inputs(self._binding, places.states)
        session.bind_outputs(self._binding, places.after if writes else {})
        self._sent, self._got = _Block(self._stream), _Block(self._stream, mirror_alone=True)
        self._options = run_options(EAGER)

    @property
    def options(self) -> onnxruntime.RunOptions | None:
        """What may stop a run."""
        return self._options

    @options.setter
    def options(self, given: onnxruntime.RunOptions | None) -> None:
        self._options = run_options(EAGER) if given is None else marked(given, EAGER)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """One run. Returns the plain outputs, on the host."""
        self._send({**feeds, "slots": feeds["slots"] * self._stride})
        self.session.leave_outputs(self._binding, self._outputs)
        self.session.run(self._binding, self._options)
        given = self._binding.get_outputs()[: len(self._outputs)]
        found = self._fetch(given)
        self._stream.wait()
        return [each.copy() for each in found]

    def _send(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        starts, whole = _laid(each.nbytes for each in feeds.values())
        self._sent.hold(whole)
        for start, (name, array) in zip(starts, feeds.items(), strict=True):
            self._sent.view(start, array.dtype, array.shape)[...] = array
            begins = self._sent.device, self._sent.mirror.ctypes.data
            on_host = name in self.session.on_host
            place = Tensor(begins[on_host] + start, array.dtype.type, array.shape, on_host)
            self.session.bind_inputs(self._binding, {name: place})
        self._stream.copy_in(self._sent.device, self._sent.mirror, whole)

    def _fetch(self, given: Sequence[onnxruntime.OrtValue]) -> list[NDArray[Any]]:
        """Where the outputs will be once the stream was waited for."""
        kinds = [(np.dtype(DTYPES[each.data_type()]), tuple(each.shape())) for each in given]
        sizes = [dtype.itemsize * int(np.prod(shape)) for dtype, shape in kinds]
        starts, whole = _laid(sizes)
        self._got.hold(whole)
        for start, each, nbytes in zip(starts, given, sizes, strict=True):
            self._stream.copy_out(self._got.mirror[start:], each.data_ptr(), nbytes)
        return [self._got.view(at, *kind) for at, kind in zip(starts, kinds, strict=True)]


class _Block:
    """Pinned memory, and as much on the device beside it."""

    def __init__(self, stream: Stream, mirror_alone: bool = False) -> None:
        self._stream, self._alone = stream, mirror_alone
        self.mirror: Bytes = np.zeros(0, np.uint8)
        self.device = 0
        self.hold(FIRST)

    def hold(self, nbytes: int) -> None:
        """Be that large at least; what is in it is lost where it was not."""
        if nbytes <= len(self.mirror):
            return
        self._stream.wait()  # a run that failed may have left a copy under way
        if len(self.mirror):
            self._stream.free_pinned(self.mirror)
            self.mirror = self.mirror[:0]
        if self.device:
            self._stream.free(self.device)
            self.device = 0
        size = 1 << (nbytes - 1).bit_length()
        self.device = 0 if self._alone else self._stream.allocate(size)
        self.mirror = self._stream.pinned(size)

    def view(self, start: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """An array that lies there in the mirror."""
        nbytes = np.dtype(dtype).itemsize * int(np.prod(shape))
        found: NDArray[Any] = self.mirror[start : start + nbytes].view(dtype)
        return found.reshape(shape)


def _laid(sizes: Any) -> tuple[list[int], int]:
    """Where arrays of those bytes begin, one behind the other, and where the last one ends."""
    starts, end = [], 0
    for nbytes in sizes:
        starts.append(rounded(end))
        end = starts[-1] + nbytes
    return starts, end
