"""`StepStream` where it arrives: messages of many rows in, a reply for each out, in the
order they are done. A message of one plain row is gathered with others of its like."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future

from server.api import columns, scope
from server.api.errors import Problems
from server.api.gathering import Deliver, Gathering, Message, Single
from server.api.lanes import Lanes, wanted
from server.api.parsing import step_batch
from server.errors import Internal, ServingError
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.http2.call import Call
from server.transport.http2.frames import Packed
from server.transport.http2.tally import Tally
from server.transport.native.stream import Stream, Streams
from server.transport.native.tallies import Tallies
from server.transport.rpcs.calls import TURN_SECONDS
from tidegate.v1 import tidegate_pb2 as pb

log = logging.getLogger(__name__)

Naming = Generator[None, None, list[pb.LaneOpened]]


class StepStream(Stream):
    """One stream, bound by its first message to a model version."""

    def __init__(
        self,
        call: Call,
        streams: Streams,
        registry: Registry,
        gathering: Gathering,
        inflight: int,
        tallies: Tallies,
    ) -> None:
        super().__init__(call, streams, step_batch, registry.count_error, inflight)
        self._registry, self.gathering = registry, gathering
        self.waiting: set[Submission | Single] = set()
        """What is dropped, should the stream be over before it has entered a run."""
        self._lanes: Lanes | None = None
        self._tallies = tallies
        self.tally: Tally
        """Where replies are counted."""

    def handle(self, message: pb.StepBatch) -> None:
        """Have the message's rows run, or answer it where none is left to run.

        Raises:
            ServingError: the first message names no servable model.
            Unauthenticated: the caller's token has run out.
        """
        if self._lanes is None:  # the first message names the model
            model = self._registry.resolve(message.model, message.version)
            self._lanes, self.tally = Lanes(model), self._tallies.of(model)
        asked = _Asked(self, self._lanes, message)
        caller = self.call.caller
        if caller is not None and (why := scope.refusal(caller, message)) is not None:
            asked.refuse(why)
            return
        single = columns.read_single(message, self._lanes, asked)
        if single is not None:
            self.gathering.add(self._lanes.model, single)
        else:
            asked.attempt(asked.take)

    def drop(self) -> None:
        """What has not entered a run is dropped."""
        for each in self.waiting:
            each.cancel()
        self.waiting.clear()


class _Asked:
    """One message under way."""

    __slots__ = (
        "_arrived", "_lanes", "_message", "_model", "_opened", "_single", "_stream", "address",
    )  # fmt: skip

    def __init__(self, stream: StepStream, lanes: Lanes, message: pb.StepBatch) -> None:
        self._stream, self._lanes, self._message = stream, lanes, message
        self._model: ServedModel = lanes.model
        self._opened: Sequence[pb.LaneOpened] = ()
        self._single: Single | None = None
        self.address, self._arrived = stream.call.address, stream.call.arrived

    def attempt(self, work: Callable[[], None]) -> None:
        """Whatever is wrong with the message, it is answered, and the stream goes on."""
        try:
            work()
        except ServingError as error:
            self.refuse(error)
        except Exception:
            log.exception("a message failed unexpectedly")
            self.refuse(Internal())

    def take(self) -> None:
        """Take in the message."""
        message, model = self._message, self._model
        columns.count(message)
        columns.check_model(message, model)
        if not message.opens:
            self._submit()
            return
        self._stream.gathering.submit()  # what a session has done counts in what its lane is told
        self._stream.paused = True  # messages behind this one may name its lanes
        if (sought := model.seek(wanted(message.opens))) is None:
            self._open({})
        else:
            sought.add_done_callback(self.address(self._found))

    def waits(self, single: Single) -> None:
        """The row was not done at once."""
        self._single = single
        self._stream.waiting.add(single)

    def done(self, submission: Submission, row: int) -> None:
        """The one row that the message has is done."""
        if self._single is not None:
            self._stream.waiting.discard(self._single)
        self._reply(
            lambda: (columns.reply_single(self._message.id, submission, row, self._model),),
            submission,
            1,
        )

    def _found(self, sought: Future[Problems]) -> None:
        """The store was asked for the sessions that are named, and are not known here."""
        self.attempt(lambda: self._open(sought.result()))

    def _open(self, problems: Problems) -> None:
        self._name(self._lanes.open(self._message.opens, problems))

    def _name(self, naming: Naming) -> None:
        """Name lanes, leaving others their turn now and then."""
        until = time.monotonic() + TURN_SECONDS
        try:
            while time.monotonic() < until:
                next(naming)
        except StopIteration as end:
            self._opened = end.value
            self._submit()
            self._stream.go_on()
        else:
            self._stream.call.post(lambda: self.attempt(lambda: self._name(naming)))

    def _submit(self) -> None:
        deliver: Deliver = self.address(self._answer)
        submission = columns.read(self._message, self._lanes, self._model.manifest, deliver)
        if not submission.queues:
            self._answer(submission)
            return
        self._stream.waiting.add(submission)

        def refuse(error: ServingError) -> None:
            self._stream.waiting.discard(submission)
            self.refuse(error)

        message = Message(self._stream, submission, refuse)
        self._stream.gathering.add_rows(self._model, message)

    def _answer(self, submission: Submission) -> None:
        self._stream.waiting.discard(submission)
        self._reply(
            lambda: columns.outcome(self._message.id, submission, self._opened, self._model),
            submission,
            len(submission),
        )

    def _reply(
        self, make: Callable[[], Sequence[Packed]], submission: Submission, rows: int
    ) -> None:
        """Answer the message; whatever became of it, the caller waits for that."""
        stream = self._stream
        try:
            stream.put(*make())
            stream.tally.add(stream.call, self._arrived, 0, submission, rows)
        except Exception:
            log.exception("a reply could not be made")
            self._put_refusal(Internal())

    def refuse(self, error: ServingError) -> None:
        """Answer the message with why it cannot be done; the stream goes on."""
        rows = max(1, self._rows())
        self._model.metrics.error(error.code, error.reason, rows)
        self._put_refusal(error)
        self._stream.go_on()

    def _put_refusal(self, error: ServingError) -> None:
        refused = columns.refused(self._message, self._rows(), self._opened, error)
        self._stream.put(refused.SerializeToString())
        self._stream.tally.add(self._stream.call, self._arrived, 0, None, self._rows())

    def _rows(self) -> int:
        """How many rows the message has; 0 where that is too many to blame."""
        rows = len(self._message.lanes) // 4
        return rows if rows <= columns.MAX_ROWS else 0
