"""`StepStream`: messages of many rows in, a reply for each out, in the order they are done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from server.access.caller import Caller
from server.api import columns, scope
from server.api.errors import Problems
from server.api.lanes import Lanes, wanted
from server.errors import Internal, ServingError, Unauthenticated
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.rpcs.calls import Context, in_turns
from server.transport.rpcs.mailbox import Mailbox
from server.transport.rpcs.stream import Stream
from tidegate.v1 import tidegate_pb2 as pb

log = logging.getLogger(__name__)


class StepStream(Stream[pb.StepBatchReply]):
    """One stream, bound by its first message to a model version."""

    def __init__(
        self,
        registry: Registry,
        mailbox: Mailbox,
        context: Context,
        inflight: int,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(context, inflight)
        self._caller = caller
        self._registry, self._mailbox = registry, mailbox
        self._waiting: set[Submission] = set()
        self._read_all = False
        self._model: ServedModel | None = None
        self._lanes: Lanes | None = None

    async def handle(self, message: pb.StepBatch) -> None:
        """Submit the message's rows, or answer it where none is left to run.

        Raises:
            ServingError: the first message names no servable model.
            Unauthenticated: the caller's token has run out.
        """
        model, lanes = self._bind(message)
        rows, opened = 0, list[pb.LaneOpened]()
        try:
            rows = columns.count(message)
            columns.check_model(message, model)
            if self._caller is not None:
                scope.admit(self._caller, message)
            if message.opens:
                problems = await self._seek(message, model)
                opened = await in_turns(lanes.open(message.opens, problems))
            self._submit(message, model, lanes, opened)
        except Unauthenticated:
            raise
        except ServingError as error:
            model.metrics.error(error.code, error.reason, max(rows, 1))
            self.outbox.put_nowait(columns.refused(message, rows, opened, error))

    async def reply(self, waiting: pb.StepBatchReply) -> pb.StepBatchReply:
        """As it is."""
        return waiting

    def read_all(self) -> None:
        """Once nothing waits any more, the stream is over."""
        self._read_all = True
        self._end_if_done()

    def drop(self) -> None:
        """What has not entered a run is dropped."""
        for submission in self._waiting:
            submission.cancelled = True

    def _bind(self, message: pb.StepBatch) -> tuple[ServedModel, Lanes]:
        """The stream's model and lanes: its first message names the model."""
        if self._model is None or self._lanes is None:
            self._model = self._registry.resolve(message.model, message.version)
            self._lanes = Lanes(self._model)
        return self._model, self._lanes

    async def _seek(self, message: pb.StepBatch, model: ServedModel) -> Problems:
        """Have the store asked for the sessions that are named, and are not known here."""
        sought = model.seek(wanted(message.opens))
        return {} if sought is None else await asyncio.wrap_future(sought)

    def _submit(
        self,
        message: pb.StepBatch,
        model: ServedModel,
        lanes: Lanes,
        opened: Sequence[pb.LaneOpened],
    ) -> None:
        submission = columns.read(
            message,
            lanes,
            model.manifest,
            self._mailbox.address(lambda done: self._done(message, done, opened)),
        )
        if not submission.queues:
            self._answer(message, submission, opened)
            return
        self._waiting.add(submission)  # before: it may be done by the time submit returns
        try:
            model.submit(submission)
        except BaseException:
            self._waiting.discard(submission)
            raise

    def _done(
        self, message: pb.StepBatch, submission: Submission, opened: Sequence[pb.LaneOpened]
    ) -> None:
        self._waiting.discard(submission)
        try:
            self._answer(message, submission, opened)
        except Exception:  # the caller waits for this message, whatever became of it
            log.exception("a reply could not be made")
            refused = columns.refused(message, len(submission), opened, Internal())
            self.outbox.put_nowait(refused)
        self._end_if_done()

    def _answer(
        self, message: pb.StepBatch, submission: Submission, opened: Sequence[pb.LaneOpened]
    ) -> None:
        assert self._model is not None
        packed = b"".join(columns.outcome(message.id, submission, opened, self._model))
        self.outbox.put_nowait(pb.StepBatchReply.FromString(packed))

    def _end_if_done(self) -> None:
        if self._read_all and not self._waiting:
            self.outbox.put_nowait(None)
