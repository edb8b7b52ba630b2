"""`ModelStreamInfer`: requests of any number of sequences, each answered in its turn.

A request that fails is answered by a message, and the stream goes on; a caller that asks for gRPC
errors gets the first failure as the stream's end.
"""

from __future__ import annotations

import asyncio

import grpc

from inference import grpc_service_pb2 as pb
from server.errors import Draining, Internal, ServingError
from server.transport.oip.inference import Inference, Pending
from server.transport.translate import Context, log, read

GRPC_ERRORS = "triton_grpc_error"
Turn = tuple[str, Pending | ServingError]


class InferStream:
    """One stream, from its first request to its last reply."""

    def __init__(self, inference: Inference, context: Context, inflight: int) -> None:
        self._inference, self._context = inference, context
        self._room = asyncio.Semaphore(inflight)
        self._turns: asyncio.Queue[Turn | None] = asyncio.Queue()
        self._draining = False
        self._reader: asyncio.Task[None] | None = None
        headers = dict(context.invocation_metadata() or ())
        self._grpc_errors = headers.get(GRPC_ERRORS) == "true"

    async def run(self) -> None:
        """Serve the stream until the caller has closed its side and every request is answered.

        Raises:
            ServingError: the first failure, where the caller asked for gRPC errors; or the server
                drains.
        """
        self._reader = asyncio.create_task(self._read())
        try:
            while (turn := await self._turns.get()) is not None:
                await self._context.write(await self._answer(*turn))
                self._room.release()
            if self._draining:
                raise Draining
            await self._reader
        finally:
            self._reader.cancel()
            self._drop()

    def drain(self) -> None:
        """Read no more; answer what was read, then end the stream."""
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        try:
            while not self._draining:
                await self._room.acquire()
                request = await read(self._context)
                if request is grpc.aio.EOF:
                    break
                self._turns.put_nowait((request.id, self._start(request)))
        finally:
            self._turns.put_nowait(None)

    def _start(self, request: pb.ModelInferRequest) -> Pending | ServingError:
        try:
            return self._inference.start(request, None)
        except ServingError as error:
            return error
        except Exception:
            log.exception("a request of a stream failed unexpectedly")
            return Internal()

    async def _answer(
        self, request_id: str, turn: Pending | ServingError
    ) -> pb.ModelStreamInferResponse:
        try:
            if isinstance(turn, ServingError):
                raise turn
            return pb.ModelStreamInferResponse(infer_response=await turn.reply())
        except ServingError as error:
            if self._grpc_errors:
                raise
            return pb.ModelStreamInferResponse(
                error_message=str(error), infer_response=pb.ModelInferResponse(id=request_id)
            )

    def _drop(self) -> None:
        """The stream is over: what is not answered yet runs no more."""
        while not self._turns.empty():
            turn = self._turns.get_nowait()
            if turn is not None and isinstance(turn[1], Pending):
                turn[1].cancel()
