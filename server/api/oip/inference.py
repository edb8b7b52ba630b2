"""One inference request from its arrival to its reply: a row of one step, and its way back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from inference import grpc_service_pb2 as pb
from server.api.errors import Problems
from server.api.gathering import Gathering, Single
from server.api.oip import requests, tensors
from server.api.oip.plain import Address, OnReply, PlainWay
from server.api.oip.refusals import NoStart
from server.api.oip.requests import Sequence
from server.api.oip.sequences import Sequences, Turn, is_gone
from server.errors import Internal, ServingError, UnknownSession
from server.scheduler.submission import RESTART, UNNUMBERED, Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tidegate.wire import FAILED

log = logging.getLogger(__name__)


class Pending:
    """An accepted request: its step is queued, or waits for the START before it. Its reply, or why
    there is none, goes to `on_reply`, once."""

    submission: Submission | None = None
    row = 0
    gathered = False
    """Whether it waits for others to be run with; should it wait longer, `on_wait` is called."""
    on_wait: Callable[[], None] | None = None

    def __init__(
        self, request: pb.ModelInferRequest, turn: Turn, on_reply: OnReply, deadline: float
    ) -> None:
        self.request, self.turn, self._on_reply = request, turn, on_reply
        self.deadline = deadline

    def cancel(self) -> None:
        """The caller has gone: the step is dropped if it has not entered a run."""
        self.deadline = -math.inf
        if self.submission is not None:
            self.submission.cancel(self.row)

    def answer(self) -> None:
        """The step was applied."""
        assert self.submission is not None
        manifest = self.turn.model.manifest
        outputs = self.submission.room(manifest.outputs_width)[self.row]
        self._on_reply(tensors.reply(self.request, outputs, manifest), self.submission)

    def fail(self, error: ServingError) -> None:
        """The step was not applied."""
        self.turn.model.metrics.error(error.code, error.reason)
        error.counted = True
        self._on_reply(error, self.submission)


class _Row:
    """A request's step, as a gathering knows it."""

    __slots__ = ("_done", "_pending", "address")

    def __init__(
        self,
        pending: Pending,
        address: Address,
        done: Callable[[Pending], None],
    ) -> None:
        self._pending, self.address, self._done = pending, address, done

    def waits(self, single: Single) -> None:
        """It can be cancelled from now on."""
        self._note(single.submission, single.row)
        if self._pending.on_wait is not None:
            self._pending.on_wait()

    def done(self, submission: Submission, row: int) -> None:
        """It has its outcome."""
        self._note(submission, row)
        self._done(self._pending)

    def _note(self, submission: Submission | None, row: int) -> None:
        self._pending.submission, self._pending.row = submission, row


@dataclass(slots=True)
class _Given:
    """What a caller gives with a request."""

    request: pb.ModelInferRequest
    remaining: float | None
    on_reply: OnReply
    address: Address


class Inference:
    """Starts requests on the sessions of all models.

    It keeps the order of sequences' requests, so one thread alone may use it.

    Args:
        address: makes of a function one that may be called from any thread, and then has it called
            in that one thread.
        gathering: where steps that start nothing wait to be run together, if anywhere.
    """

    def __init__(
        self,
        registry: Registry,
        address: Address,
        gathering: Gathering | None = None,
    ) -> None:
        self._registry, self._address, self._gathering = registry, address, gathering
        self._sequences = Sequences()
        self.plain: PlainWay | None = None
        """For most requests, where steps are gathered."""
        if gathering is not None:
            self.plain = PlainWay(registry, self._sequences, gathering)

    def look(self, request: pb.ModelInferRequest) -> list[Future[Problems]]:
        """What to wait for, before `make`: the store is asked for the request's sequence, where no
        version knows it. A request that is wrong is left for `start` to refuse."""
        found = self._unknown(request)
        if found is None or (found[1].start and len(found[0]) == 1):
            return []
        models, sequence = found
        sought = [model.seek({sequence.session_id: False}) for model in models]
        return [each for each in sought if each is not None]

    def make(self, request: pb.ModelInferRequest) -> Future[Problems] | None:
        """What to wait for before `start`: the store makes the sequence that the request starts,
        where there is none."""
        found = self._unknown(request)
        if found is None or not found[1].start:
            return None
        newest = requests.model(self._registry, request.model_name, request.model_version)
        try:
            tensors.read(request, newest.manifest)
            tensors.check_outputs(request, newest.manifest)
        except ServingError:
            return None
        return newest.seek({found[1].session_id: True})

    def _unknown(self, request: pb.ModelInferRequest) -> tuple[list[ServedModel], Sequence] | None:
        """The versions that may hold the request's sequence, newest first, if none knows it."""
        try:
            newest, sequence = self._named(request)
        except ServingError:
            return None
        models = [newest] if request.model_version else self._registry.versions(newest.name)
        known = any(sequence.session_id in model.directory for model in models)
        return None if known or not sequence.session_id else (models, sequence)

    def start(
        self,
        request: pb.ModelInferRequest,
        remaining: float | None,
        on_reply: OnReply,
        address: Address | None = None,
    ) -> Pending:
        """Queue the request's step; `remaining` seconds until the caller's deadline. `address` may
        be the request's own.

        Raises:
            ServingError: the request is refused; nothing has changed.
        """
        with self._counted(request):
            newest, sequence = self._named(request)
            model = self._holder(newest, request, sequence)
            asked = _Given(request, remaining, on_reply, address or self._address)
            return self._start(asked, model, sequence)

    def start_known(
        self,
        request: pb.ModelInferRequest,
        remaining: float | None,
        on_reply: OnReply,
        address: Address,
    ) -> Pending | None:
        """As `start`, if the sequence is known here; None where the store is to be asked first
        (`look`, then `make`)."""
        with self._counted(request):
            newest, sequence = self._named(request)
            model: ServedModel | None = newest
            if not request.model_version:
                model = self._registry.holding(newest.name, 0, sequence.session_id)
            if model is None or sequence.session_id not in model.directory:
                return None
            return self._start(_Given(request, remaining, on_reply, address), model, sequence)

    @contextmanager
    def _counted(self, request: pb.ModelInferRequest) -> Iterator[None]:
        try:
            yield
        except ServingError as error:
            self._registry.count_error(error, request.model_name, requests.version_of(request))
            raise

    def _named(self, request: pb.ModelInferRequest) -> tuple[ServedModel, Sequence]:
        newest = requests.model(self._registry, request.model_name, request.model_version)
        return newest, requests.sequence(request.parameters)

    def _start(self, asked: _Given, model: ServedModel, sequence: Sequence) -> Pending:
        request = asked.request
        features = tensors.read(request, model.manifest)
        tensors.check_outputs(request, model.manifest)
        sequence.check(model.name)
        turn = self._sequences.take(model, sequence)
        pending = Pending(request, turn, asked.on_reply, _limit(sequence.timeout, asked.remaining))
        self._enter(pending, partial(self._submit, pending, features, asked.address))
        return pending

    def _holder(
        self, newest: ServedModel, request: pb.ModelInferRequest, sequence: Sequence
    ) -> ServedModel:
        """Where the request names no version: the one that holds the sequence. One that only
        remembers its end explains the lack of a START, and starts nothing."""
        if request.model_version:
            return newest
        holder = self._registry.holder(newest.name, 0, sequence.session_id)
        starts = sequence.start and sequence.session_id not in holder.directory
        return newest if starts else holder

    def _submit(self, pending: Pending, features: tensors.Floats, address: Address) -> None:
        turn = pending.turn
        if self._gathering is not None and not turn.sequence.start:
            row = _Row(pending, address, self._done)
            packed = features.astype("<f4", copy=False).tobytes()
            single = Single(turn.handle, UNNUMBERED, packed, pending.deadline, row)
            pending.gathered = True
            self._gathering.add(turn.model, single)
            return
        if self._gathering is not None:  # steps of the sequence may be among those that came before
            self._gathering.submit()
        pending.submission = Submission(
            handles=np.array([turn.handle], dtype=np.int64),
            first_steps=np.array([RESTART if turn.sequence.start else UNNUMBERED], dtype=np.int64),
            lengths=np.ones(1, dtype=np.int32),
            features=features,
            on_done=address(lambda _: self._done(pending)),
            deadline=pending.deadline,
        )
        pending.submission.cancelled = pending.deadline == -math.inf
        turn.model.submit(pending.submission)

    def _enter(self, pending: Pending, submit: Callable[[], None]) -> None:
        """Queue the step, now or once the START before it has its outcome."""
        turn = pending.turn
        if turn.after is not None:
            turn.after.behind.append(partial(self._follow, pending, submit))
            return
        try:
            submit()
        except BaseException:  # whatever it is, nobody may wait for this turn
            self._sequences.finish(turn, failed=True)
            raise

    def _follow(self, pending: Pending, submit: Callable[[], None], started: bool) -> None:
        """The START before has its outcome: go on, or fail with it."""
        turn = pending.turn
        try:
            if not started and not turn.sequence.start:
                raise UnknownSession(turn.model.name, turn.sequence.session_id)
            submit()
        except ServingError as error:
            self._fail(pending, error)
        except Exception:
            log.exception("a request behind a START could not be queued")
            self._fail(pending, Internal())

    def _done(self, pending: Pending) -> None:
        assert pending.submission is not None
        if pending.submission.status[pending.row] == FAILED:
            self._fail(pending, pending.submission.error(pending.row))
            return
        self._sequences.finish(pending.turn, failed=False)
        try:
            pending.answer()
        except Exception:
            log.exception("a reply could not be made")
            pending.fail(Internal())

    def _fail(self, pending: Pending, error: ServingError) -> None:
        turn = pending.turn
        if is_gone(error):
            error = NoStart(turn.model.name, turn.sequence.session_id, error)
        pending.fail(error)
        self._sequences.finish(turn, failed=True)


def _limit(timeout: float | None, remaining: float | None) -> float:
    """When the step must have entered a run, on the monotonic clock."""
    left = min((each for each in (timeout, remaining) if each is not None), default=math.inf)
    return time.monotonic() + left
