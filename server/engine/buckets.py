"""Batches of any number of rows, run as one of a few sizes: the rest of the rows is padding.

A captured graph does one thing only: the same operators on the same addresses with the same shapes.
So there is one bucket a size, with a place on the device for what goes in and what comes out, and a
mirror of it in pinned memory. A row of padding steps the arena's last row, which is nobody's; it is
fresh, so that nothing which lies there can matter. Row 0 would not do: a forecast steps it beside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.gpu import Stream, Tensor, rounded

SLOT, FLAG, FLOAT = 8, 1, 4  # bytes


def sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and `most` itself."""
    return (*(1 << k for k in range((most - 1).bit_length())), most)


def nbytes_of(most: int, inputs: int, outputs: int) -> int:
    """Bytes of all buckets on the device, about."""
    row = SLOT + FLAG + FLOAT * (inputs + outputs)
    return sum(rounded(size * row) + 2 * rounded(1) for size in sizes(most))


class Bucket:
    """A size's block on the device, slots | fresh | input, and its outputs; and their mirrors."""

    def __init__(self, size: int, inputs: int, outputs: int, padding: int, stream: Stream) -> None:
        self.size, self._padding, self._stream = size, padding, stream
        self._row_in, self._row_out = FLOAT * inputs, FLOAT * outputs
        flags, self._features = SLOT * size, rounded((SLOT + FLAG) * size)
        whole = self._features + self._row_in * size
        self._in, self._out = stream.allocate(whole), stream.allocate(self._row_out * size)
        self._sent, self._got = stream.pinned(whole), stream.pinned(self._row_out * size)
        self.inputs = {
            "slots": Tensor(self._in, np.int64, (size,)),
            "fresh": Tensor(self._in + flags, np.bool_, (size,)),
            "input": Tensor(self._in + self._features, np.float32, (size, inputs)),
        }
        self.outputs = {"output": Tensor(self._out, np.float32, (size, outputs))}
        self._slots = self._sent[:flags].view(np.int64)
        self._fresh = self._sent[flags : flags + FLAG * size].view(np.bool_)
        self._input = self._sent[self._features :].view(np.float32).reshape(size, inputs)
        self._output = self._got.view(np.float32).reshape(size, outputs)

    def send(self, slots: NDArray[np.int64], fresh: NDArray[np.bool_], rows: NDArray[Any]) -> None:
        """Copy a batch in, padded; none at all is padding alone. One copy: what lies in the rows of
        padding beside slots and flags is of no account, and stays."""
        count = len(slots)
        self._slots[:count], self._slots[count:] = slots, self._padding
        self._fresh[:count], self._fresh[count:] = fresh, True
        self._input[:count] = rows
        self._stream.copy_in(self._in, self._sent, self._features + self._row_in * count)

    def fetch(self, count: int) -> None:
        """Copy out what the first rows gave."""
        self._stream.copy_out(self._got, self._out, self._row_out * count)

    def taken(self, count: int) -> NDArray[np.float32]:
        """What was fetched, once the stream was waited for; the mirror is used again."""
        return self._output[:count].copy()
