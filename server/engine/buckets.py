"""Batches of any number of rows, run as one of a few sizes: the rest of the rows is padding.

A captured graph does one thing only: the same operators on the same addresses with the same shapes.
So there is one bucket a size, with a place on the device for what goes in and what comes out, and
mirrors of it in pinned memory: the host lays the next batch into one, or reads the answers of the
last, while the device works from the other. On the device one place will do, for in the stream a
batch comes in when the one before has gone out. A row of padding steps the arena's last row, which
is nobody's; it is fresh, so that nothing which lies there can matter. Row 0 would not do: a
forecast steps it beside.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.gpu import Stream, Tensor, rounded

SLOT, FLAG, FLOAT = 8, 1, 4  # bytes
UNDER_WAY = 2  # runs: one on the device, and one behind it that is prepared meanwhile


def sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and `most` itself."""
    return (*(1 << k for k in range((most - 1).bit_length())), most)


def nbytes_of(most: int, inputs: int, outputs: int) -> int:
    """Bytes of all buckets on the device, about."""
    row = SLOT + FLAG + FLOAT * (inputs + outputs)
    return sum(rounded(size * row) + 2 * rounded(1) for size in sizes(most))


class Mirror:
    """A bucket's pinned memory for a run: what goes in, what comes out, and when it has come."""

    def __init__(self, size: int, nbytes: int, inputs: int, outputs: int, stream: Stream) -> None:
        flags, features = SLOT * size, nbytes - FLOAT * inputs * size
        self.sent, self.got = stream.pinned(nbytes), stream.pinned(FLOAT * outputs * size)
        self.slots = self.sent[:flags].view(np.int64)
        self.fresh = self.sent[flags : flags + FLAG * size].view(np.bool_)
        self.input = self.sent[features:].view(np.float32).reshape(size, inputs)
        self.output = self.got.view(np.float32).reshape(size, outputs)
        self.come = stream.event()


class Bucket:
    """A size's block on the device, slots | fresh | input, and its outputs; and their mirrors, of
    which each run takes another than the run before, which may not be over yet."""

    def __init__(self, size: int, inputs: int, outputs: int, padding: int, stream: Stream) -> None:
        self.size, self._padding, self._stream = size, padding, stream
        self._row_in, self._row_out = FLOAT * inputs, FLOAT * outputs
        flags, self._features = SLOT * size, rounded((SLOT + FLAG) * size)
        whole = self._features + self._row_in * size
        self._in, self._out = stream.allocate(whole), stream.allocate(self._row_out * size)
        self.inputs = {
            "slots": Tensor(self._in, np.int64, (size,)),
            "fresh": Tensor(self._in + flags, np.bool_, (size,)),
            "input": Tensor(self._in + self._features, np.float32, (size, inputs)),
        }
        self.outputs = {"output": Tensor(self._out, np.float32, (size, outputs))}
        mirrors = [Mirror(size, whole, inputs, outputs, stream) for _ in range(UNDER_WAY)]
        self._mirrors = cycle(mirrors)

    def send(
        self, slots: NDArray[np.int64], fresh: NDArray[np.bool_], rows: NDArray[Any]
    ) -> Mirror:
        """Copy a batch in, padded; none at all is padding alone. One copy: what lies in the rows of
        padding beside slots and flags is of no account, and stays."""
        count, mirror = len(slots), next(self._mirrors)
        mirror.slots[:count], mirror.slots[count:] = slots, self._padding
        mirror.fresh[:count], mirror.fresh[count:] = fresh, True
        mirror.input[:count] = rows
        self._stream.copy_in(self._in, mirror.sent, self._features + self._row_in * count)
        return mirror

    def fetch(self, mirror: Mirror, count: int) -> None:
        """Copy out what the first rows gave."""
        self._stream.copy_out(mirror.got, self._out, self._row_out * count)
        self._stream.record(mirror.come)

    def has_come(self, mirror: Mirror) -> bool:
        """Whether it could be taken without waiting."""
        return self._stream.has_come(mirror.come)

    def taken(self, mirror: Mirror, count: int) -> NDArray[np.float32]:
        """What was fetched, once it has come; the mirror is used again."""
        self._stream.wait_for(mirror.come)
        return mirror.output[:count].copy()
