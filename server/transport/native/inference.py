"""The Open Inference Protocol's `ModelInfer` and `ModelStreamInfer` where they arrive: steps
of sequences, gathered with others of their like."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from google.protobuf.message import DecodeError

from inference import grpc_service_pb2 as pb
from server.api import scope
from server.api.errors import Problems, raise_first
from server.api.gathering import Deliver, Gathering, Single
from server.api.oip import tensors
from server.api.oip.inference import Inference, Pending
from server.api.oip.plain import OnReply
from server.api.parsing import infer_request
from server.errors import Internal, NoMessage, ServingError
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.http2.call import Call
from server.transport.native.stream import Stream, Streams
from server.transport.native.tallies import Tallies
from server.transport.rpcs.calls import about
from server.transport.rpcs.infer_stream import GRPC_ERRORS
from server.transport.rpcs.services import Services

log = logging.getLogger(__name__)

Outcome = pb.ModelInferResponse | ServingError


class Requests:
    """Begins requests. Used by the loop's thread alone, in which the order of sequences is kept."""

    def __init__(
        self,
        registry: Registry,
        gathering: Gathering,
        services: Services,
        calls: Tallies,
        messages: Tallies,
    ) -> None:
        self._registry, self._gathering, self.services = registry, gathering, services
        self._calls, self._messages = calls, messages
        self._inference: Inference | None = None

    def begin(self, call: Call) -> None:
        """A call of `ModelInfer` has come; its message follows."""
        call.receive(_Unary(self, call).take)

    def stream(self, call: Call, streams: Streams, inflight: int) -> None:
        """A call of `ModelStreamInfer` has come."""
        _InferStream(call, streams, self, self._registry, inflight).begin()

    def count(self, call: Call, outcome: Outcome) -> None:
        """A call is about to get its reply: it counts under the model that gives it."""
        if (model := self._model(outcome)) is not None:
            call.tally = self._calls.of(model)

    def count_message(
        self, call: Call, arrived: float, outcome: Outcome, submission: Submission | None
    ) -> None:
        """A request on a stream has its reply."""
        if (model := self._model(outcome)) is not None:
            self._messages.of(model).add(call, arrived, 0, submission, 1)

    def _model(self, outcome: Outcome) -> ServedModel | None:
        if isinstance(outcome, ServingError):
            return None
        return self._registry.find(outcome.model_name, int(outcome.model_version))

    def plain(
        self,
        request: pb.ModelInferRequest,
        call: Call,
        remaining: float | None,
        on_reply: OnReply,
        on_wait: Callable[[Single], None],
    ) -> bool:
        """Gather the request's step, if it is a plain one."""
        way = self._of_thread().plain
        return way is not None and way.take(request, remaining, on_reply, call.address, on_wait)

    def start(self, request: pb.ModelInferRequest, call: Call, asked: _Asked) -> None:
        """Have the request's step run, once the store was asked for its sequence where it is not
        known."""
        asked.attempt(lambda: self._look(request, call, asked))

    def _look(self, request: pb.ModelInferRequest, call: Call, asked: _Asked) -> None:
        inference = self._of_thread()
        known = inference.start_known(request, asked.remaining, asked.settle, call.address)
        if known is not None:
            asked.has_begun(known)
            return
        go_on = partial(self._make, request, call, asked)
        _after(inference.look(request), call, asked, go_on)

    def _make(self, request: pb.ModelInferRequest, call: Call, asked: _Asked) -> None:
        made = self._of_thread().make(request)
        go_on = partial(self._start, request, call, asked)
        _after([] if made is None else [made], call, asked, go_on)

    def _start(self, request: pb.ModelInferRequest, call: Call, asked: _Asked) -> None:
        inference = self._of_thread()
        asked.has_begun(inference.start(request, asked.remaining, asked.settle, call.address))

    def _of_thread(self) -> Inference:
        if self._inference is None:  # it belongs to the thread that makes it
            self._inference = Inference(self._registry, _not_used, self._gathering)
        return self._inference


class _Asked:
    """One request under way."""

    def __init__(self, on_reply: OnReply, remaining: float | None = None) -> None:
        self._on_reply, self.remaining = on_reply, remaining
        self.begun: Callable[[], None] = _nothing
        """Called once, when its step is queued or never will be."""
        self.pending: Pending | None = None
        self.single: Single | None = None
        self.on_wait: Callable[[], None] | None = None
        """Called should its step not be run with those that it was gathered with."""
        self.given_up = False
        self.outcome: Outcome | None = None
        self.submission: Submission | None = None
        """What stepped it."""

    def attempt(self, work: Callable[[], None]) -> None:
        """Whatever fails is the request's outcome."""
        try:
            work()
        except ServingError as error:
            self.settle(error.with_traceback(None))  # which holds the request
        except Exception:
            log.exception("a request failed unexpectedly")
            self.settle(Internal())

    def settle(self, outcome: Outcome, submission: Submission | None = None) -> None:
        """The request has its outcome."""
        if self.outcome is None:
            self.outcome, self.submission = outcome, submission
            self._on_reply(outcome, submission)
            self._tell_begun()

    def has_begun(self, pending: Pending) -> None:
        """Its step is queued, or gathered."""
        self.pending = pending
        pending.on_wait = self.on_wait
        if self.given_up:
            pending.cancel()
        self._tell_begun()

    def has_gathered(self, single: Single) -> None:
        """Its step, a plain one, waits after all."""
        self.single = single
        if self.given_up:
            single.cancel()

    @property
    def waits(self) -> bool:
        """Whether its outcome is not to be expected at once."""
        gathered = self.pending is not None and self.pending.gathered
        return self.outcome is None and not gathered

    def _tell_begun(self) -> None:
        """Not again with its outcome: by then the stream may be held for another."""
        begun, self.begun = self.begun, _nothing
        begun()

    def cancel(self) -> None:
        """Nobody waits any more: a step that has not entered a run is dropped."""
        self.given_up = True
        for waiting in (self.pending, self.single):
            if waiting is not None:
                waiting.cancel()


def _nothing() -> None:
    """Nobody waits for it to begin."""


def _after(
    sought: Sequence[Future[Problems]], call: Call, asked: _Asked, go_on: Callable[[], None]
) -> None:
    """Go on once all of these are done, in the loop's thread; the first problem is the outcome."""
    if not sought:
        go_on()
        return
    first, *others = sought

    def told(done: Future[Problems]) -> None:
        raise_first(done.result())
        _after(others, call, asked, go_on)

    first.add_done_callback(call.address(lambda done: asked.attempt(lambda: told(done))))


def _not_used(_: Deliver) -> Deliver:
    raise AssertionError("requests have addresses of their own")


class _Unary:
    """One call of `ModelInfer`."""

    def __init__(self, requests: Requests, call: Call) -> None:
        self._requests, self._call = requests, call
        self._request: pb.ModelInferRequest | None = None
        self._entered: float | None = None

    def take(self, packed: bytes | None) -> None:
        """The message is there."""
        try:
            request = self._let_in(packed or b"")
            remaining = self._call.remaining
            if self._requests.plain(request, self._call, remaining, self._reply, self._watch):
                return
        except ServingError as error:
            self._reply(error)
            return
        except Exception:
            log.exception("a request failed unexpectedly", extra=about(self._call.metadata))
            self._reply(Internal())
            return
        asked = _Asked(self._reply, remaining)
        asked.on_wait = partial(self._watch, asked)
        self._requests.start(request, self._call, asked)
        if asked.waits:
            asked.on_wait()

    def _let_in(self, packed: bytes) -> pb.ModelInferRequest:
        try:
            self._request = infer_request(packed)
        except DecodeError as error:
            raise NoMessage(error) from error
        if self._call.caller is not None:
            scope.admit(self._call.caller, self._request)
        self._entered = self._requests.services.gate.enter()
        return self._request

    def _watch(self, waiting: _Asked | Single) -> None:
        """It is cancelled with its call."""
        self._call.watch(waiting.cancel)

    def _reply(self, outcome: Outcome, submission: Submission | None = None) -> None:
        if self._entered is not None:
            self._requests.services.gate.leave(self._entered)
        if isinstance(outcome, ServingError):
            self._requests.services.count(outcome, self._request)
            self._call.refuse(outcome)
        else:
            self._requests.count(self._call, outcome)
            self._call.answer(outcome.SerializeToString(), submission)


class _InferStream(Stream):
    """One call of `ModelStreamInfer`: requests of any number of sequences, answered in their order.

    A request that fails is answered by a message, and the stream goes on; a caller that asks for
    gRPC errors gets the first failure as the stream's end.
    """

    def __init__(
        self, call: Call, streams: Streams, requests: Requests, registry: Registry, inflight: int
    ) -> None:
        super().__init__(call, streams, infer_request, registry.count_error, inflight)
        self._requests = requests
        self._grpc_errors = dict(call.metadata).get(GRPC_ERRORS) == "true"
        self._asked: deque[tuple[str, _Asked, float]] = deque()
        """Requests that are not answered yet, with their ids and when they arrived."""

    def handle(self, message: pb.ModelInferRequest) -> None:
        """Begin a request. Those behind it may be of its sequence, and wait until it has begun."""
        asked = _Asked(lambda *_: self._answer())
        self._asked.append((message.id, asked, self.call.arrived))
        caller = self.call.caller
        if caller is not None and (why := scope.refusal(caller, message)) is not None:
            asked.settle(why)
            return
        if not self._requests.plain(message, self.call, None, asked.settle, asked.has_gathered):
            self.paused, asked.begun = True, self.go_on
            self._requests.start(message, self.call, asked)

    def drop(self) -> None:
        """What has not entered a run is dropped."""
        for _, asked, _ in self._asked:
            asked.cancel()
        self._asked.clear()

    def _answer(self) -> None:
        """Answer the oldest requests, those that have their outcome."""
        while self._asked and (outcome := self._asked[0][1].outcome) is not None:
            request_id, asked, arrived = self._asked.popleft()
            if isinstance(outcome, ServingError) and self._grpc_errors:
                self.fail(outcome)
            else:
                self.put(tensors.streamed(request_id, outcome).SerializeToString())
                self._requests.count_message(self.call, arrived, outcome, asked.submission)
