"""One inference request from its arrival to its reply: a row of one step, and its way back."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from functools import partial

import numpy as np

from inference import grpc_service_pb2 as pb
from server.batcher.submission import RESTART, UNNUMBERED, Submission
from server.errors import Internal, ServingError, UnknownSession
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport.mailbox import Mailbox
from server.transport.oip import lookup, parameters, tensors
from server.transport.oip.parameters import Sequence
from server.transport.oip.refusals import NoStart
from server.transport.oip.sequences import Sequences, Turn, is_gone

log = logging.getLogger(__name__)


class Pending:
    """An accepted request: its step is queued, or waits for the START before it."""

    submission: Submission

    def __init__(self, request: pb.ModelInferRequest, turn: Turn) -> None:
        self.request, self.turn = request, turn
        loop = asyncio.get_running_loop()
        self._reply: asyncio.Future[pb.ModelInferResponse] = loop.create_future()

    async def reply(self) -> pb.ModelInferResponse:
        """Wait for the reply.

        Raises:
            ServingError: why the step was not applied.
        """
        try:
            return await self._reply
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """The caller has gone: the step is dropped if it has not entered a run."""
        self.submission.cancelled = True
        self._reply.add_done_callback(_heard)

    def answer(self) -> None:
        """The step was applied."""
        if not self._reply.done():
            manifest = self.turn.model.manifest
            outputs = self.submission.room(manifest.outputs_width)[0]
            self._reply.set_result(tensors.reply(self.request, outputs, manifest))

    def fail(self, error: ServingError) -> None:
        """The step was not applied."""
        self.turn.model.metrics.error(error.code, error.reason)
        if not self._reply.done():
            self._reply.set_exception(error)


def _heard(reply: asyncio.Future[pb.ModelInferResponse]) -> None:
    """A failure that nobody waits for any more is no news."""
    if not reply.cancelled():
        reply.exception()


class Inference:
    """Starts requests on the models' sessions."""

    def __init__(self, models: Models, mailbox: Mailbox) -> None:
        self._models, self._mailbox = models, mailbox
        self._sequences = Sequences()

    def start(self, request: pb.ModelInferRequest, remaining: float | None) -> Pending:
        """Queue the request's step; `remaining` seconds until the caller's deadline.

        Raises:
            ServingError: the request is refused; nothing has changed.
        """
        try:
            return self._start(request, remaining)
        except ServingError as error:
            self._models.count_error(error, request.model_name, lookup.version_of(request))
            raise

    def _start(self, request: pb.ModelInferRequest, remaining: float | None) -> Pending:
        newest = lookup.model(self._models, request.model_name, request.model_version)
        sequence = parameters.read(request.parameters)
        model = self._holder(newest, request, sequence)
        features = tensors.read(request, model.manifest)
        tensors.check_outputs(request, model.manifest)
        sequence.check(model.name)
        pending = Pending(request, self._sequences.take(model, sequence))
        pending.submission = self._submission(pending, features)
        pending.submission.deadline = _limit(sequence.timeout, remaining)
        self._enter(pending)
        return pending

    def _holder(
        self, newest: ServedModel, request: pb.ModelInferRequest, sequence: Sequence
    ) -> ServedModel:
        """Where the request names no version: the one that holds the sequence. One that only
        remembers its end explains the lack of a START, and starts nothing."""
        if request.model_version:
            return newest
        holder = self._models.holder(newest.name, 0, sequence.session_id)
        starts = sequence.start and not holder.holds(sequence.session_id)
        return newest if starts else holder

    def _submission(self, pending: Pending, features: tensors.Floats) -> Submission:
        (slot, generation), sequence = pending.turn.place, pending.turn.sequence
        return Submission(
            slots=np.array([slot], dtype=np.int64),
            generations=np.array([generation], dtype=np.int64),
            first_steps=np.array([RESTART if sequence.start else UNNUMBERED], dtype=np.int64),
            lengths=np.ones(1, dtype=np.int32),
            features=features,
            session_id=lambda _: sequence.session_id,
            on_done=self._mailbox.address(lambda _: self._done(pending)),
        )

    def _enter(self, pending: Pending) -> None:
        """Queue the step, now or once the START before it has its outcome."""
        turn = pending.turn
        if turn.after is not None:
            turn.after.behind.append(partial(self._follow, pending))
            return
        try:
            turn.model.submit(pending.submission)
        except ServingError:
            self._sequences.finish(turn, failed=True)
            raise

    def _follow(self, pending: Pending, started: bool) -> None:
        """The START before has its outcome: go on, or fail with it."""
        turn = pending.turn
        try:
            if not started and not turn.sequence.start:
                raise UnknownSession(turn.model.name, turn.sequence.session_id)
            turn.model.submit(pending.submission)
        except ServingError as error:
            self._fail(pending, error)
        except Exception:
            log.exception("a request behind a START could not be queued")
            self._fail(pending, Internal())

    def _done(self, pending: Pending) -> None:
        if errors := pending.submission.errors:
            self._fail(pending, errors[0])
        else:
            self._sequences.finish(pending.turn, failed=False)
            pending.answer()

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
