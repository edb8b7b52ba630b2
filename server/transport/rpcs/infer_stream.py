"""`ModelStreamInfer`: requests of any number of sequences, each answered in its turn.

A request that fails is answered by a message, and the stream goes on; a caller that asks for gRPC
errors gets the first failure as the stream's end.
"""

from __future__ import annotations

import asyncio
import logging

from inference import grpc_service_pb2 as pb
from server.access.caller import Caller
from server.api import scope
from server.api.errors import raise_first
from server.api.oip import tensors
from server.api.oip.inference import Inference, Pending
from server.errors import Internal, ServingError
from server.scheduler.submission import Submission
from server.transport.rpcs.calls import Context
from server.transport.rpcs.stream import Stream

log = logging.getLogger(__name__)

GRPC_ERRORS = "triton_grpc_error"

Reply = asyncio.Future[pb.ModelInferResponse]


class Call:
    """A request under way on the event loop: its reply, or the error that it gets."""

    def __init__(
        self,
        inference: Inference,
        request: pb.ModelInferRequest,
        remaining: float | None,
        refused: ServingError | None = None,
    ) -> None:
        self.id = request.id
        self.reply: Reply = asyncio.get_running_loop().create_future()
        self.reply.add_done_callback(_heard)
        self._pending: Pending | None = None
        try:
            if refused is not None:
                raise refused
            self._pending = inference.start(request, remaining, self._settle)
        except ServingError as error:
            self._settle(error)
        except Exception:
            log.exception("a request failed unexpectedly")
            self._settle(Internal())

    def cancel(self) -> None:
        """Nobody waits any more: a step that has not entered a run is dropped."""
        if self._pending is not None:
            self._pending.cancel()

    def _settle(
        self, outcome: pb.ModelInferResponse | ServingError, _: Submission | None = None
    ) -> None:
        if self.reply.done():
            return
        if isinstance(outcome, ServingError):
            self.reply.set_exception(outcome)
        else:
            self.reply.set_result(outcome)


async def begin(
    inference: Inference, request: pb.ModelInferRequest, remaining: float | None
) -> Call:
    """A request under way, once the store was asked for its sequence where it is not known."""
    try:
        for sought in inference.look(request):
            raise_first(await asyncio.wrap_future(sought))
        if (made := inference.make(request)) is not None:
            raise_first(await asyncio.wrap_future(made))
    except ServingError as error:
        return Call(inference, request, remaining, error)
    return Call(inference, request, remaining)


class InferStream(Stream[Call]):
    """One stream, from its first request to its last reply."""

    def __init__(
        self,
        inference: Inference,
        context: Context,
        inflight: int,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(context, inflight)
        self._inference, self._caller = inference, caller
        headers = dict(context.invocation_metadata() or ())
        self._grpc_errors = headers.get(GRPC_ERRORS) == "true"

    async def handle(self, message: pb.ModelInferRequest) -> None:
        """Begin a request.

        Raises:
            Unauthenticated: the caller's token has run out.
        """
        why = None if self._caller is None else scope.refusal(self._caller, message)
        if why is not None:
            self.outbox.put_nowait(Call(self._inference, message, None, why))
        else:
            self.outbox.put_nowait(await begin(self._inference, message, None))

    async def reply(self, waiting: Call) -> pb.ModelStreamInferResponse:
        """Wait for a request's reply.

        Raises:
            ServingError: why it failed, where the caller asked for gRPC errors.
        """
        try:
            return tensors.streamed(waiting.id, await waiting.reply)
        except ServingError as error:
            if self._grpc_errors:
                raise
            return tensors.streamed(waiting.id, error)
        except asyncio.CancelledError:
            waiting.cancel()
            raise

    def read_all(self) -> None:
        """The last request is in the outbox."""
        self.outbox.put_nowait(None)

    def drop(self) -> None:
        """What has not entered a run is dropped."""
        while not self.outbox.empty():
            if (waiting := self.outbox.get_nowait()) is not None:
                waiting.cancel()


def _heard(reply: Reply) -> None:
    """A failure that nobody waits for any more is no news."""
    if not reply.cancelled():
        reply.exception()
