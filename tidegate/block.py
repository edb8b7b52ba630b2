"""A block: many sessions' steps that the caller already holds in arrays, and their answer."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate import errors
from tidegate.errors import TidegateError
from tidegate.lanes import Lanes
from tidegate.packing import WIRE, FloatArray

FAILED, REMEMBERED = 2, 1


@dataclass(frozen=True)
class ManySteps:
    """What became of the steps of many sessions; row i is the i-th session's."""

    outputs: FloatArray
    """f32 [N, O], or [N, T, O] for chunks; NaN in the rows that failed."""
    remembered: NDArray[np.bool_]
    """Which rows had been applied before and were answered from the server's memory."""
    errors: dict[int, TidegateError] = field(default_factory=dict)
    """Why rows failed, by row."""

    def raise_first(self) -> None:
        """Raise the first row's error, if any row failed."""
        if self.errors:
            raise self.errors[min(self.errors)]


class Block:
    """The steps of `session_ids`: features [N, T, I], numbered from `first_steps`."""

    def __init__(
        self,
        session_ids: Sequence[str],
        first_steps: ArrayLike,
        features: FloatArray,
        width: int,
        create: bool,
        done: Future[ManySteps],
        expiry: float,
    ) -> None:
        self.session_ids, self.features = list(session_ids), features.copy()
        self.create, self.done, self.expiry = create, done, expiry
        self.flat = False
        """Whether the caller gave single steps, [N, I], and is answered likewise."""
        self.first_steps = _numbers(first_steps, len(self.session_ids))
        count = len(self.session_ids)
        self.steps, self.inputs = int(features.shape[1]), int(features.shape[2])
        self.outputs = np.full((count, self.steps, width), np.nan, dtype=np.float32)
        self.remembered = np.zeros(count, dtype=np.bool_)
        self.errors: dict[int, TidegateError] = {}
        self._left = count

    def part(self, start: int, stop: int) -> Part:
        """Some of its rows."""
        return Part(self, start, stop)

    def expire(self, now: float, error: TidegateError) -> None:
        """End the caller's waiting, if its time is over."""
        if self.expiry <= now and not self.done.done():
            self.done.set_exception(error)

    def finish(self, rows: int) -> None:
        """So many more rows have their outcome; the last one answers the caller."""
        self._left -= rows
        if self._left == 0 and not self.done.done():
            self.done.set_result(self.answer())

    def answer(self) -> ManySteps:
        """What is known of every row."""
        outputs = self.outputs[:, 0] if self.flat else self.outputs
        return ManySteps(outputs, self.remembered, self.errors)


@dataclass
class Part:
    """Rows `start` to before `stop` of a block, which travel together."""

    owner: Block
    start: int
    stop: int
    attempts: int = 1

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def steps(self) -> int:
        """Steps in all rows."""
        return len(self) * self.owner.steps

    @property
    def size(self) -> int:
        """Bytes of features."""
        return self.steps * self.owner.inputs * WIRE.itemsize

    @property
    def packed(self) -> bytes:
        """The features as they travel."""
        return self.owner.features[self.start : self.stop].tobytes()

    @property
    def first_steps(self) -> bytes:
        """The rows' numbers as they travel."""
        return self.owner.first_steps[self.start : self.stop].tobytes()

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Steps in each row."""
        return np.full(len(self), self.owner.steps, dtype="<u4")

    def lanes(self, lanes: Lanes) -> list[int]:
        """The rows' lanes."""
        names, create = self.owner.session_ids[self.start : self.stop], self.owner.create
        return [lanes.lane(name, create) for name in names]

    def split(self) -> tuple[Part, Part]:
        """Two halves."""
        middle = (self.start + self.stop) // 2
        return self.owner.part(self.start, middle), self.owner.part(middle, self.stop)

    def answered(
        self, outputs: FloatArray, status: NDArray[np.uint8], failed: dict[int, TidegateError]
    ) -> None:
        """Outputs [steps of the good rows, O], a status a row, and errors by row of this part."""
        block, good = self.owner, status != FAILED
        at = np.flatnonzero(good) + self.start
        block.outputs[at] = outputs.reshape(len(at), block.steps, outputs.shape[-1])
        block.remembered[self.start : self.stop] = status == REMEMBERED
        block.errors |= {self.start + row: error for row, error in failed.items()}
        block.finish(len(self))

    def failed(self, error: TidegateError) -> None:
        """None of the rows has an answer, and none will come."""
        self.owner.errors |= dict.fromkeys(range(self.start, self.stop), error)
        self.owner.finish(len(self))


def _numbers(first_steps: ArrayLike, count: int) -> NDArray[np.uint64]:
    numbers = np.asarray(first_steps) if count else np.empty(0, np.uint64)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise errors.bad_input(
            f"first_steps must be {count} whole numbers from 0, not {numbers.dtype} "
            f"{list(numbers.shape)}", "first_steps"
        )  # fmt: skip
    return numbers.astype("<u8")
