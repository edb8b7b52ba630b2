"""Single steps as captured CUDA graphs, one for each size of `buckets`: a run is one copy in, one
launch, one copy out and one wait, for an event behind that.

Three traps of capture shape this, each seen with onnxruntime:
- The first run of a new id is executed three times. So every bucket is captured by `begin`, before
  anybody is served, with all of its rows on the padding.
- A graph is the thread's that captured it; in another one it would be captured anew, amid serving.
  So `begin` is called by the thread that will run it; the engine refuses any other from then on.
- A replay ignores what is bound. So an id belongs to a binding, and a binding to a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.engine.buckets import Bucket, Mirror
from server.engine.device_arenas import Places
from server.engine.gate import gate
from server.engine.gpu import EAGER, GpuSession, run_options
from server.engine.graph import GraphError

Floats = NDArray[np.float32]
ALIKE = 1e-3  # a replay beside an eager run of the same kernels: what is wrong is far off


@dataclass(frozen=True, slots=True)
class Replay:
    """A run that was asked for."""

    bucket: Bucket
    mirror: Mirror
    count: int

    def over(self) -> bool:
        """Whether nobody would wait for its outputs."""
        return self.bucket.has_come(self.mirror)

    def outputs(self) -> Floats:
        """Its outputs [B, O], once they have come."""
        return self.bucket.taken(self.mirror, self.count)


class CapturedRows:
    """The graph of single steps in buckets of all sizes, 1, 2, 4 ... rows.

    Args:
        places: where the arenas are; it is told slots as they are, so they must be `places` of one
            row a slot.
    """

    def __init__(self, session: GpuSession, buckets: Sequence[Bucket], places: Places) -> None:
        assert places.stride == 1
        self._session, self._stream = session, session.stream
        self._buckets = [
            (
                bucket,
                session.bind(
                    {**bucket.inputs, **places.states}, {**bucket.outputs, **places.after}
                ),
                run_options(bucket.size),
            )
            for bucket in buckets
        ]
        self._eager = run_options(EAGER)
        self.options: onnxruntime.RunOptions | None = None
        """Of no account: nothing stops a replay."""

    def begin(self) -> None:
        """Capture every bucket, in the thread that runs them from now on; the largest first, so
        that the others find room in the memory that onnxruntime took for it.

        Raises:
            GraphError: a replay does not answer as an eager run does.
            RuntimeError: onnxruntime cannot capture the graph.
        """
        for at in reversed(range(len(self._buckets))):
            self._capture(at)
            self._compare(at)

    def run(self, slots: NDArray[Any], fresh: NDArray[Any], rows: NDArray[Any]) -> Floats:
        """One step of each session: slots [B], fresh [B], rows [B, I]; their outputs [B, O]."""
        return self.ask(slots, fresh, rows).outputs()

    def ask(self, slots: NDArray[Any], fresh: NDArray[Any], rows: NDArray[Any]) -> Replay:
        """Have that run done. As many as `UNDER_WAY` may be asked for and not waited for yet; they
        are waited for in that order."""
        return self._ask((len(slots) - 1).bit_length(), True, slots, fresh, rows)

    def _ask(
        self,
        at: int,
        replayed: bool,
        slots: NDArray[Any],
        fresh: NDArray[Any],
        rows: NDArray[Any],
    ) -> Replay:
        bucket, binding, options = self._buckets[at]
        mirror = bucket.send(slots, fresh, rows)
        self._session.run(binding, options if replayed else self._eager)
        bucket.fetch(mirror, len(slots))
        return Replay(bucket, mirror, len(slots))

    def _capture(self, at: int) -> None:
        """Padding alone steps. First eagerly, which takes memory, loads kernels, and may call
        anything; what is captured then calls nothing that would have to wait for others."""
        _, binding, options = self._buckets[at]
        nobody = np.zeros(0, np.int64), np.zeros(0, np.bool_), self._rows(at)[:0]
        with gate:
            self._ask(at, False, *nobody).outputs()
        with gate.alone():
            self._session.run(binding, options)
            self._stream.wait()

    def _compare(self, at: int) -> None:
        """One row steps on the arenas' scratch row, eagerly and replayed."""
        one = np.zeros(1, np.int64), np.ones(1, np.bool_), self._rows(at)[:1]
        with gate:
            plain, replayed = (self._ask(at, each, *one).outputs() for each in (False, True))
        if not np.allclose(plain, replayed, rtol=ALIKE, atol=ALIKE, equal_nan=True):
            size = self._buckets[at][0].size
            raise GraphError(f"a captured run of {size} rows answers other than an eager one")

    def _rows(self, at: int) -> Floats:
        width = self._buckets[at][0].inputs["input"].shape[1]
        return np.random.default_rng(0).normal(size=(1, width)).astype(np.float32)
