"""The number of a session's next step, and what is uncertain about it after a failure.

Pure bookkeeping, between a session's faces and the wire. A request whose outcome is unknown does
not advance the number, so the next one goes out under the same number and the server settles what
happened: it answers a repetition from memory, and refuses other features with its own count.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Inputs kept to recognise a repetition. A caller that streams into a dead connection would
# otherwise grow them without bound.
REMEMBERED_INPUTS = 16


class Numbering:
    """Where one session stands, as far as this client knows."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._current: FloatArray | None = None  # sent, and not settled since
        self._lost: deque[FloatArray] = deque(maxlen=REMEMBERED_INPUTS)
        self._lengths: set[int] = set()  # of every lost request, those no longer kept included

    def piece(self, steps: FloatArray, most: int) -> FloatArray:
        """The part of `steps` for the next request.

        Steps that start with a lost request are cut at its end, so that the server sees the very
        same request again rather than half a repetition and half something new.
        """
        self._shelve()
        for lost in self._lost:
            if len(lost) < len(steps) and same_start(lost, steps):
                return steps[: len(lost)]
        return steps[:most]

    def send(self, piece: FloatArray) -> None:
        """`piece`, which must not change any more, goes out: its outcome is unknown from now on."""
        self._shelve()
        self._current = piece

    def answered(self, piece: FloatArray, *, remembered: bool) -> None:
        """The server answered `piece`."""
        count = len(piece)
        if not remembered:  # so it was applied just now, and nothing lost before it ever will be
            self._settle(self.number + count)
            return
        # It may be the head of a longer lost one, whose tail would then be applied as well.
        tails = [each[count:] for each in self._lost if same_start(each, piece)]
        lengths = {each - count for each in self._lengths if each > count}
        self._settle(self.number + count)
        self._lost.extend(each for each in tails if len(each))
        self._lengths = lengths

    def refused(self) -> None:
        """The server certainly did not apply the request under way."""
        self._current = None

    def resolve(self, piece: FloatArray, expected: int | None, *, forgotten: bool) -> bool:
        """Take the server's count if exactly a lost request explains it; say whether it does.

        `forgotten`: the server no longer knows which features it applied, so `piece` itself might
        be them, and sending it again might apply it twice.
        """
        if expected is None or expected - self.number not in self._lengths:
            return False
        if forgotten and (
            len(self._lost) == REMEMBERED_INPUTS
            or any(same_start(each, piece) for each in self._lost)
        ):
            return False
        self._settle(expected)
        return True

    def _settle(self, number: int) -> None:
        self.number = number
        self._current = None
        self._lost.clear()
        self._lengths = set()

    def _shelve(self) -> None:
        """Count the request under way as lost: another is to go out, and it was never settled."""
        current, self._current = self._current, None
        if current is None:
            return
        self._lengths.add(len(current))
        if not any(_identical(current, each) for each in self._lost):
            self._lost.append(current)


def _identical(one: FloatArray, other: FloatArray) -> bool:
    return len(one) == len(other) and same_start(one, other)


def same_start(one: FloatArray, other: FloatArray) -> bool:
    """Whether both agree, bit for bit, as far as the shorter one goes."""
    count = min(len(one), len(other))
    return one[:count].tobytes() == other[:count].tobytes()
