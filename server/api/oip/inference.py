"""One inference request from its arrival to its reply: a row of one step, and its way back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import numpy as np

from inference import grpc_service_pb2 as pb
from server.api.errors import Problems
from server.api.oip import requests, tensors
from server.api.oip.refusals import NoStart
from server.api.oip.requests import Sequence
from server.api.oip.sequences import Sequences, Turn, is_gone
from server.errors import Internal, ServingError, UnknownSession
from server.scheduler.submission import RESTART, UNNUMBERED, Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry

log = logging.getLogger(__name__)

OnReply = Callable[[pb.ModelInferResponse | ServingError], None]
Deliver = Callable[[Submission], None]


class Pending:
    """An accepted request: its step is queued, or waits for the START before it. Its reply, or why
    there is none, goes to `on_reply`, once."""

    submission: Submission

    def __init__(self, request: pb.ModelInferRequest, turn: Turn, on_reply: OnReply) -> None:
        self.request, self.turn, self._on_reply = request, turn, on_reply

    def cancel(self) -> None:
        """The caller has gone: the step is dropped if it has not entered a run."""
        self.submission.cancelled = True

    def answer(self) -> None:
        """The step was applied."""
        manifest = self.turn.model.manifest
        outputs = self.submission.room(manifest.outputs_width)[0]
        self._on_reply(tensors.reply(self.request, outputs, manifest))

    def fail(self, error: ServingError) -> None:
        """The step was not applied."""
        self.turn.model.metrics.error(error.code, error.reason)
        error.counted = True
        self._on_reply(error)


class Inference:
    """Starts requests on the sessions of all models.

    It keeps the order of sequences' requests, so one thread alone may use it.

    Args:
        address: makes of a function one that may be called from any thread, and then has it called
            in that one thread.
    """

    def __init__(self, registry: Registry, address: Callable[[Deliver], Deliver]) -> None:
        self._registry, self._address = registry, address
        self._sequences = Sequences()

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
            newest = requests.model(self._registry, request.model_name, request.model_version)
            sequence = requests.sequence(request.parameters)
        except ServingError:
            return None
        models = [newest] if request.model_version else self._registry.versions(newest.name)
        known = any(sequence.session_id in model.directory for model in models)
        return None if known or not sequence.session_id else (models, sequence)

    def start(
        self, request: pb.ModelInferRequest, remaining: float | None, on_reply: OnReply
    ) -> Pending:
        """Queue the request's step; `remaining` seconds until the caller's deadline.

        Raises:
            ServingError: the request is refused; nothing has changed.
        """
        try:
            return self._start(request, remaining, on_reply)
        except ServingError as error:
            self._registry.count_error(error, request.model_name, requests.version_of(request))
            raise

    def _start(
        self, request: pb.ModelInferRequest, remaining: float | None, on_reply: OnReply
    ) -> Pending:
        newest = requests.model(self._registry, request.model_name, request.model_version)
        sequence = requests.sequence(request.parameters)
        model = self._holder(newest, request, sequence)
        features = tensors.read(request, model.manifest)
        tensors.check_outputs(request, model.manifest)
        sequence.check(model.name)
        pending = Pending(request, self._sequences.take(model, sequence), on_reply)
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
        holder = self._registry.holder(newest.name, 0, sequence.session_id)
        starts = sequence.start and sequence.session_id not in holder.directory
        return newest if starts else holder

    def _submission(self, pending: Pending, features: tensors.Floats) -> Submission:
        sequence = pending.turn.sequence
        return Submission(
            handles=np.array([pending.turn.handle], dtype=np.int64),
            first_steps=np.array([RESTART if sequence.start else UNNUMBERED], dtype=np.int64),
            lengths=np.ones(1, dtype=np.int32),
            features=features,
            on_done=self._address(lambda _: self._done(pending)),
        )

    def _enter(self, pending: Pending) -> None:
        """Queue the step, now or once the START before it has its outcome."""
        turn = pending.turn
        if turn.after is not None:
            turn.after.behind.append(partial(self._follow, pending))
            return
        try:
            turn.model.submit(pending.submission)
        except BaseException:  # whatever it is, nobody may wait for this turn
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
        if pending.submission.failed:
            self._fail(pending, pending.submission.errors[0])
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
