"""The unary calls: everything but steps. Failures come out typed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
from grpc import aio
from numpy.typing import ArrayLike, NDArray

from tidegate import errors, packing
from tidegate.model import Catalogue, Model, SessionInfo
from tidegate.options import ClientOptions
from tidegate.packing import FloatArray
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Method = Callable[..., Awaitable[Reply]]

LITTLE = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "bool": "?",
}


class Calls:
    """What a client asks of a server about models and whole sessions.

    Everywhere, `version` 0 is the version that holds the session, or the newest; `timeout` is in
    seconds, retries included, `ClientOptions.timeout` where it is left out.
    """

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self._catalogue = Catalogue()
        self._stub: pb_grpc.TidegateAsyncStub | None = None

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every model version served."""
        request = pb.ListModelsRequest()
        return self._catalogue.fill(await self._call(self._rpc.ListModels, request, timeout))

    async def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """One model; version 0 is the newest. Asks the server only for what was not seen yet."""
        known = self._catalogue.find(name, version)
        if known is None:
            await self.models(timeout=timeout)
            known = self._catalogue.pick(name, version)
        return known

    async def sessions(
        self, model: str, version: int = 0, *, timeout: float | None = None
    ) -> AsyncIterator[SessionInfo]:
        """Every live session of a model, page after page."""
        request = pb.ListRequest(model=model, version=version, page_size=1000)
        while True:
            reply = await self._call(self._rpc.List, request, timeout)
            for session in reply.sessions:
                yield SessionInfo.from_proto(session)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def open_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> pb.OpenReply:
        """Open a session, or find the live one. `Client.session` is the usual way."""
        request = pb.OpenRequest(model=model, version=version, session_id=session_id)
        return await self._call(self._rpc.Open, request, timeout)

    async def get_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> SessionInfo:
        """A live session, without having it open here."""
        request = pb.GetRequest(model=model, version=version, session_id=session_id)
        return SessionInfo.from_proto(await self._call(self._rpc.Get, request, timeout))

    async def close_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> int:
        """End a session without having it open here; returns the steps it had applied."""
        request = pb.CloseRequest(model=model, version=version, session_id=session_id)
        return (await self._call(self._rpc.Close, request, timeout)).steps

    async def export_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> bytes:
        """A session's snapshot, as bytes to keep or to send. The session goes on."""
        request = pb.ExportRequest(model=model, version=version, session_id=session_id)
        return (await self._call(self._rpc.Export, request, timeout)).SerializeToString()

    async def import_session(
        self,
        snapshot: bytes,
        *,
        session_id: str = "",
        replace: bool = False,
        timeout: float | None = None,
    ) -> SessionInfo:
        """Make a session from a snapshot, under its own id or another; `replace` a live one.

        Raises:
            BadSnapshot: the bytes are no snapshot, or of another model, version or bundle.
            SessionExists: the id is live, and `replace` was not asked for.
        """
        request = pb.ImportRequest(session_id=session_id, replace=replace)
        try:
            request.snapshot.ParseFromString(snapshot)
        except Exception as error:  # protobuf's DecodeError, whose place varies by version
            raise errors.BadSnapshot(f"these {len(snapshot)} bytes are no snapshot") from error
        reply = await self._call(self._rpc.Import, request, timeout)
        return SessionInfo.from_proto(reply.session)

    async def fork_session(
        self,
        model: str,
        session_id: str,
        new_session_id: str,
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> SessionInfo:
        """Copy a live session under another id.

        Raises:
            SessionExists: the other id is live.
        """
        request = pb.ForkRequest(
            model=model, version=version, session_id=session_id, new_session_id=new_session_id
        )
        return SessionInfo.from_proto(await self._call(self._rpc.Fork, request, timeout))

    async def reset_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> SessionInfo:
        """Put a live session back to step 0. With it open here, use `Session.reset`."""
        request = pb.ResetRequest(model=model, version=version, session_id=session_id)
        return SessionInfo.from_proto(await self._call(self._rpc.Reset, request, timeout))

    async def forecast(
        self,
        model: str,
        session_id: str,
        steps: int,
        features: ArrayLike | None = None,
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> FloatArray:
        """What a session would answer to its next `steps` steps: f32 [steps, O].

        Args:
            features: [m, I] of the coming steps, all of them or the first few; the steps after
                those are fed with the outputs before them, where the model `feeds_back`.

        Raises:
            BadInput: the numbers of steps or features; or nothing is there to feed.
        """
        given = np.empty(0, np.float32) if features is None else packing.floats(features).ravel()
        request = pb.ForecastRequest(
            model=model, version=version, session_id=session_id, steps=steps,
            features=given.tolist(),
        )  # fmt: skip
        reply = await self._call(self._rpc.Forecast, request, timeout)
        return np.array(reply.outputs, np.float32).reshape(steps, -1)

    async def peek(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A session's state: each state's name and its values."""
        request = pb.PeekRequest(model=model, version=version, session_id=session_id)
        reply = await self._call(self._rpc.Peek, request, timeout)
        return {
            each.name: np.frombuffer(each.data, LITTLE[each.dtype]).reshape(tuple(each.shape))
            for each in reply.states
        }

    @property
    def _rpc(self) -> pb_grpc.TidegateAsyncStub:
        if self._stub is None:
            raise RuntimeError("the client is not connected: use `async with Client(...)`")
        return self._stub

    def seconds(self, timeout: float | None) -> float:
        """The timeout of a call that asks for `timeout`."""
        return self.options.timeout if timeout is None else timeout

    async def _call(self, method: Method[Reply], request: Request, timeout: float | None) -> Reply:
        try:
            return await method(request, timeout=self.seconds(timeout))
        except aio.AioRpcError as error:
            raise errors.from_rpc(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC says so of a call whose channel was closed, though nobody cancelled this task.
            raise errors.Cancelled("the client was closed") from None
