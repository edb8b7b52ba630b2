"""Steps of many callers that arrive together: single ones as one submission, messages of rows as
one run. What would cost each its own arrays and its own way through the queue is done for all of
them at once.

Only steps that can run at once are gathered. A session that is gathered already, and one whose
state has to be brought in first, would keep the others waiting: those are submitted by themselves.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import numpy as np

from server.arrays import every, filled
from server.errors import Internal, ServingError
from server.scheduler.submission import Handles, Submission
from server.serving.model import ServedModel
from server.sessions import validation

log = logging.getLogger(__name__)

WORTH: Final = 512
"""Steps of a run from which on more make each hardly cheaper: a caller's messages that have come
together enter runs of at most so many, so that he has the first replies, and sends more, while the
others run."""

HALVED: Final = 48
"""Messages from which on those that have come together enter two runs, so that callers turn to the
first replies while the others run. Or whoever steps again once answered would wait for all of them,
and then the server for him."""

Deliver = Callable[[Submission], None]
Refuse = Callable[[ServingError], None]


class Caller(Protocol):
    """Who sent a step."""

    def address(self, deliver: Deliver, /) -> Deliver:
        """A function that may be called from any thread, and then has `deliver` called in the
        thread that gathers."""

    def done(self, submission: Submission, row: int, /) -> None:
        """The step is row `row` of this submission, and has its outcome."""

    def waits(self, single: Single, /) -> None:
        """The step was not done at once: it may be cancelled."""


@dataclass(slots=True, eq=False)
class Single:
    """One step of one session. Its features are f32 [I], as little-endian bytes; the deadline is by
    the monotonic clock."""

    handle: int
    first_step: int
    features: bytes
    deadline: float
    caller: Caller
    submission: Submission | None = None
    row: int = 0

    def cancel(self) -> None:
        """The caller has gone: the step is dropped if it has not entered a run."""
        if self.submission is not None:
            self.submission.cancel(self.row)


@dataclass(slots=True, eq=False)
class Message:
    """A caller's rows, some of them to be queued; `refuse` is called with why none was, if so."""

    caller: object
    submission: Submission
    refuse: Refuse


Tell = Callable[[Sequence[Single], Submission], None]


class Gathering:
    """The steps that were taken in since the last `submit`, by model version. One thread alone
    uses it.

    Args:
        told: called each time that callers of single steps have been told.
    """

    def __init__(self, told: Callable[[], object] = lambda: None) -> None:
        self._told = told
        self._singles: dict[ServedModel, dict[int, Single]] = {}
        self._rows: dict[ServedModel, deque[Message]] = {}
        self._limits: dict[ServedModel, int] = {}
        """How many of those that have come together enter a run, until none of them is left."""

    def add_rows(self, model: ServedModel, message: Message) -> None:
        """Take in a message of rows; `submit` follows."""
        if model in self._singles:  # some may be of the same sessions, and came before
            self._submit_all(model)
        self._rows.setdefault(model, deque()).append(message)

    def add(self, model: ServedModel, single: Single) -> None:
        """Take in a step; `submit` follows."""
        while single.handle in self._singles.get(model, ()):  # a completion may add others
            self._submit_all(model)
        self._singles.setdefault(model, {})[single.handle] = single

    def submit(self) -> None:
        """Have the steps run."""
        while self.submit_some():
            pass

    def submit_some(self) -> bool:
        """Have as many of the steps run as are worth a run; returns whether others are left."""
        if self._rows or self._singles:
            self._submit_some(next(iter(self._rows or self._singles)))
        return bool(self._rows or self._singles)

    def _submit_all(self, model: ServedModel) -> None:
        while model in self._rows or model in self._singles:
            self._submit_some(model)

    def _submit_some(self, model: ServedModel) -> None:
        if model in self._rows:
            _submit_rows(model, self._worth_a_run(model))
        else:
            self._submit_singles(model)

    def _limit(self, model: ServedModel, waiting: int) -> int:
        half = (waiting + 1) // 2 if waiting >= HALVED else waiting
        return self._limits.setdefault(model, half)

    def _worth_a_run(self, model: ServedModel) -> list[Message]:
        waiting = self._rows[model]
        some = _worth_together(waiting, self._limit(model, len(waiting)), model.most_together)
        if not waiting:
            del self._rows[model], self._limits[model]
        return some

    def _submit_singles(self, model: ServedModel) -> None:
        singles = self._some_singles(model)
        try:
            for alike, handles in _together(model, singles):
                _submit(model, alike, handles, self._tell)
        except Exception:  # the thread that gathers has others to serve
            log.exception("%d steps could not be submitted", len(singles))
            _lose([each for each in singles if each.submission is None])

    def _some_singles(self, model: ServedModel) -> list[Single]:
        waiting = self._singles[model]
        handles = list(islice(waiting, self._limit(model, len(waiting))))
        some = [waiting.pop(handle) for handle in handles]
        if not waiting:
            del self._singles[model], self._limits[model]
        return some

    def _tell(self, singles: Sequence[Single], submission: Submission) -> None:
        _tell(singles, submission)
        self._told()


def _worth_together(waiting: deque[Message], most: int, steps: int) -> list[Message]:
    """Take out those that had better run together, at most so many and of so many steps, or one:
    each caller's in their order."""
    some, passed, of = list[Message](), list[Message](), dict[object, float]()
    while waiting and len(some) < most:
        each = waiting[0]
        its, had = each.submission.steps, of.get(each.caller, 0)
        if some and its > steps:
            break
        waiting.popleft()
        if had and had + its > WORTH:
            of[each.caller] = math.inf  # those of his that follow must not overtake it
            passed.append(each)
        else:
            of[each.caller], steps = had + its, steps - its
            some.append(each)
    waiting.extendleft(reversed(passed))
    return some


def _submit_rows(model: ServedModel, messages: Sequence[Message]) -> None:
    """In one run, or one after the other."""
    try:
        if len(messages) > 1 and model.run_together([each.submission for each in messages]):
            return
    except Exception:
        log.exception("%d messages could not be run together", len(messages))
    for each in messages:
        try:
            model.submit(each.submission)
        except ServingError as error:
            each.refuse(error)
        except Exception:
            log.exception("a message's rows could not be submitted")
            each.refuse(Internal())


def _together(model: ServedModel, singles: list[Single]) -> Iterator[tuple[list[Single], Handles]]:
    """Those that can run at once, then each of the others by itself; with their sessions."""
    handles = np.array([each.handle for each in singles], np.int64)
    if len(singles) == 1 or every(at_hand := model.at_hand(handles)):
        yield singles, handles
        return
    if at_hand.any():
        yield [singles[row] for row in np.flatnonzero(at_hand).tolist()], handles[at_hand]
    for row in np.flatnonzero(~at_hand).tolist():
        yield [singles[row]], handles[row : row + 1]


def _submit(model: ServedModel, singles: Sequence[Single], handles: Handles, tell: Tell) -> None:
    submission = _joined(model, singles, handles, tell)
    try:
        model.submit(submission)
    except ServingError as error:
        _refuse(submission, error)
    except Exception:
        log.exception("%d steps could not be submitted", len(singles))
        _refuse(submission, Internal())
    if not submission.done:
        for single in singles:
            single.caller.waits(single)


def _lose(singles: Sequence[Single]) -> None:
    """Not even a submission could be made of them."""
    none = np.zeros(len(singles), dtype=np.int64)
    empty = np.zeros((len(singles), 0), dtype=np.float32)
    lost = Submission(none, none, none.astype(np.int32) + 1, empty, lambda _: None)
    lost.fail(np.arange(len(singles)), Internal())
    _tell(singles, lost)


def _joined(
    model: ServedModel, singles: Sequence[Single], handles: Handles, tell: Tell
) -> Submission:
    count, manifest = len(singles), model.manifest
    packed = b"".join([each.features for each in singles])
    submission = Submission(
        handles=handles,
        first_steps=np.array([each.first_step for each in singles], np.int64),
        lengths=filled(count, np.int32, 1),
        features=np.frombuffer(packed, dtype="<f4").reshape(count, manifest.inputs_width),
        on_done=singles[0].caller.address(lambda done: tell(singles, done)),
    )
    for row, single in enumerate(singles):
        single.submission, single.row = submission, row
    submission.deadlines = np.array([each.deadline for each in singles], np.float64)
    validation.fail_unacceptable(submission, manifest)
    return submission


def _refuse(submission: Submission, error: ServingError) -> None:
    """None of its rows was queued."""
    submission.fail(submission.queued_rows, error)
    submission.on_done(submission)


def _tell(singles: Sequence[Single], submission: Submission) -> None:
    for row, single in enumerate(singles):
        try:
            single.caller.done(submission, row)
        except Exception:  # one caller must not cost the others their replies
            log.exception("a completion failed")
        single.submission = None  # they would go round in circles, which the collector has to find
