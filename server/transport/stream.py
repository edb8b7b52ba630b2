"""`StepStream`: messages of many rows in, a reply for each out, several on their way at once.

Reading pauses while too many messages are unanswered, so that HTTP/2 holds a fast sender back.
"""

from __future__ import annotations

import asyncio
import math
import time

import grpc
import numpy as np

from server.batcher.submission import Submission
from server.bundle.manifest import Manifest
from server.errors import BadInput, Draining, ServingError, UnknownLane
from server.sessions import inputs
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport import columns
from server.transport.columns import Columns
from server.transport.lanes import Lanes
from server.transport.mailbox import Mailbox
from server.transport.translate import Context, read
from tidegate.v1 import tidegate_pb2 as pb


class StepStream:
    """One stream, from its first message to its last reply."""

    def __init__(self, models: Models, mailbox: Mailbox, context: Context, inflight: int) -> None:
        self._models, self._mailbox, self._context = models, mailbox, context
        self._slots = asyncio.Semaphore(inflight)
        self._replies: asyncio.Queue[pb.StepBatchReply | None] = asyncio.Queue()
        self._waiting: set[Submission] = set()
        self._read_all = False
        self._draining = False
        self._reader: asyncio.Task[None] | None = None
        self._model: ServedModel | None = None
        self._lanes: Lanes | None = None

    async def run(self) -> None:
        """Serve the stream until the caller has closed its side and every message is answered.

        Raises:
            ServingError: the first message names no servable model, or the server drains.
        """
        self._reader = asyncio.create_task(self._read())
        try:
            while (reply := await self._replies.get()) is not None:
                await self._context.write(reply)
                self._slots.release()
            if self._draining:
                raise Draining
            await self._reader
        finally:
            self._reader.cancel()
            for submission in self._waiting:
                submission.cancelled = True

    def drain(self) -> None:
        """Read no more; answer what was read, then end the stream."""
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        try:
            while not self._draining:
                await self._slots.acquire()
                message = await read(self._context)
                if message is grpc.aio.EOF:
                    break
                self._handle(message)
        finally:
            self._read_all = True
            self._end_if_done()

    def _handle(self, message: pb.StepBatch) -> None:
        model, lanes = self._bind(message)
        rows = 0
        opened: list[pb.LaneOpened] = []
        try:
            rows = columns.count(message)
            self._check_model(message, model)
            opened = lanes.open(message.opens)
            submission = self._submission(message, columns.read(message, model.manifest), opened)
            if submission.remaining:
                self._submit(model, submission)
            else:
                self._answer(message.id, submission, opened)
        except ServingError as error:
            model.metrics.error(error.code, error.reason, max(rows, 1))
            self._reply(columns.refused(message.id, rows, error), opened)

    def _submit(self, model: ServedModel, submission: Submission) -> None:
        self._waiting.add(submission)  # before: it may be done by the time submit returns
        try:
            model.submit(submission)
        except ServingError:
            self._waiting.discard(submission)
            raise

    def _bind(self, message: pb.StepBatch) -> tuple[ServedModel, Lanes]:
        """The stream's model and lanes: its first message names the model."""
        if self._model is None or self._lanes is None:
            self._model = self._models.resolve(message.model, message.version)
            self._lanes = Lanes(self._model)
        return self._model, self._lanes

    def _check_model(self, message: pb.StepBatch, model: ServedModel) -> None:
        if message.model not in ("", model.name):
            text = f"the stream serves model {model.name!r}, not {message.model[:300]!r}"
            raise BadInput(text, field="model")

    def _submission(
        self, message: pb.StepBatch, rows: Columns, opened: list[pb.LaneOpened]
    ) -> Submission:
        """The message's rows; those that must not run have failed already."""
        model, lanes = self._bind(message)
        known, ids = lanes.known(rows.lanes), lanes.ids
        slots, generations = lanes.locate(rows.lanes, known)
        submission = Submission(
            slots=slots,
            generations=generations,
            first_steps=rows.first_steps,
            lengths=rows.lengths,
            features=rows.features,
            session_id=lambda row: ids[int(rows.lanes[row])],
            on_done=self._mailbox.address(lambda done: self._done(message.id, done, opened)),
            deadline=_deadline(message.timeout_us),
        )
        if not known.all():
            for row in np.flatnonzero(~known).tolist():
                submission.fail(row, UnknownLane(int(rows.lanes[row])))
        _fail_unacceptable(submission, model.manifest)
        return submission

    def _done(self, message_id: int, submission: Submission, opened: list[pb.LaneOpened]) -> None:
        self._waiting.discard(submission)
        self._answer(message_id, submission, opened)
        self._end_if_done()

    def _answer(self, message_id: int, submission: Submission, opened: list[pb.LaneOpened]) -> None:
        assert self._model is not None
        for error in submission.errors.values():
            self._model.metrics.error(error.code, error.reason)
        self._reply(columns.reply(message_id, submission, self._model.manifest), opened)

    def _reply(self, reply: pb.StepBatchReply, opened: list[pb.LaneOpened]) -> None:
        reply.opened.extend(opened)
        self._replies.put_nowait(reply)

    def _end_if_done(self) -> None:
        if self._read_all and not self._waiting:
            self._replies.put_nowait(None)


def _deadline(timeout_us: int) -> float:
    return time.monotonic() + timeout_us / 1e6 if timeout_us else math.inf


def _fail_unacceptable(submission: Submission, manifest: Manifest) -> None:
    if inputs.acceptable(submission.features, manifest):
        return
    for row in range(len(submission.slots)):
        problem = inputs.problem(submission.features[submission.span(row)], manifest)
        if problem and row not in submission.errors:
            submission.fail(row, problem)
