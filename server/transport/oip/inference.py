"""One inference request from its arrival to its reply: a row of one step, and its way back."""

from __future__ import annotations

import asyncio
import math
import time

import numpy as np

from inference import grpc_service_pb2 as pb
from server.batcher.submission import RESTART, UNNUMBERED, Submission
from server.errors import ServingError
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport.mailbox import Mailbox
from server.transport.oip import lookup, parameters, tensors
from server.transport.oip.parameters import Sequence
from server.transport.oip.refusals import NoStart
from server.transport.oip.sequences import Sequences, Turn, is_gone

Reply = asyncio.Future[pb.ModelInferResponse]


class Pending:
    """A request whose step is queued."""

    def __init__(self, submission: Submission, reply: Reply) -> None:
        self._submission, self._reply = submission, reply

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
        self._submission.cancelled = True
        self._reply.add_done_callback(_heard)


def _heard(reply: Reply) -> None:
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
            version = request.model_version
            number = int(version) if version.isdecimal() and len(version) < 19 else 0
            self._models.count_error(error, request.model_name, number)
            raise

    def _start(self, request: pb.ModelInferRequest, remaining: float | None) -> Pending:
        newest = lookup.model(self._models, request.model_name, request.model_version)
        sequence = parameters.read(request.parameters)
        features = tensors.read(request, newest.manifest)
        tensors.check_outputs(request, newest.manifest)
        sequence.check(newest.name)
        model = self._holder(newest, request, sequence)
        turn = self._sequences.take(model, sequence)
        try:
            return self._submit(request, turn, features, _limit(sequence.timeout, remaining))
        except ServingError:
            self._sequences.finish(turn, failed=True)
            raise

    def _holder(
        self, newest: ServedModel, request: pb.ModelInferRequest, sequence: Sequence
    ) -> ServedModel:
        """The version that holds the sequence, where the request names none."""
        if request.model_version:
            return newest
        return self._models.holder(newest.name, 0, sequence.session_id)

    def _submit(
        self, request: pb.ModelInferRequest, turn: Turn, features: tensors.Floats, deadline: float
    ) -> Pending:
        slot, generation = turn.model.locate(turn.sequence.session_id)
        reply: Reply = asyncio.get_running_loop().create_future()
        first = RESTART if turn.sequence.start else UNNUMBERED
        submission = Submission(
            slots=np.array([slot], dtype=np.int64),
            generations=np.array([generation], dtype=np.int64),
            first_steps=np.array([first], dtype=np.int64),
            lengths=np.ones(1, dtype=np.int32),
            features=features,
            session_id=lambda _: turn.sequence.session_id,
            on_done=self._mailbox.address(lambda done: self._done(request, turn, done, reply)),
            deadline=deadline,
        )
        turn.model.submit(submission)
        return Pending(submission, reply)

    def _done(
        self, request: pb.ModelInferRequest, turn: Turn, done: Submission, reply: Reply
    ) -> None:
        self._sequences.finish(turn, failed=bool(done.errors))
        model = turn.model
        if done.errors:
            error = done.errors[0]
            if is_gone(error):
                error = NoStart(model.name, turn.sequence.session_id, error)
            model.metrics.error(error.code, error.reason)
            if not reply.done():
                reply.set_exception(error)
        elif not reply.done():
            outputs = done.room(model.manifest.outputs_width)[0]
            reply.set_result(tensors.reply(request, outputs, model.manifest))


def _limit(timeout: float | None, remaining: float | None) -> float:
    """When the step must have entered a run, on the monotonic clock."""
    left = min((each for each in (timeout, remaining) if each is not None), default=math.inf)
    return time.monotonic() + left
