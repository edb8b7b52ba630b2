"""The asynchronous client: sessions over `grpc.aio`.

A thin face: what to send and what replies mean is in `stepping`; here are the channel, the lock
that keeps a session's steps in order, and the translation of failures.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio
from numpy.typing import ArrayLike

from tidegate import errors
from tidegate.model import Catalogue, Model, SessionInfo
from tidegate.numbering import FloatArray
from tidegate.options import ClientOptions
from tidegate.stepping import Deadline, Run, Stepper
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Method = Callable[..., Awaitable[Reply]]


class Client:
    """A connection to a Tidegate server, for one event loop. Use it with `async with`."""

    def __init__(
        self,
        address: str,
        options: ClientOptions | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self.options = options or ClientOptions()
        self._credentials = credentials
        self._catalogue = Catalogue()
        self._channel: aio.Channel | None = None
        self._stub: pb_grpc.TidegateAsyncStub | None = None

    async def __aenter__(self) -> Self:
        self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def connect(self) -> None:
        """Make the channel, inside a running event loop. gRPC connects with the first call."""
        settings = self.options.channel_options()
        if self._credentials is None:
            self._channel = aio.insecure_channel(self.address, settings)
        else:
            self._channel = aio.secure_channel(self.address, self._credentials, settings)
        self._stub = pb_grpc.TidegateStub(self._channel)

    async def close(self) -> None:
        """Close the channel. Sessions stay live on the server until they are closed or expire."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    def session(
        self, model: str, session_id: str, *, version: int = 0, keep: bool = False
    ) -> "Session":
        """A session, for `async with`, which opens it (or attaches to the live one) and closes it.

        Args:
            model: the model's name.
            session_id: the caller's name for the session, 1 to 256 bytes of UTF-8.
            version: the model version; 0 is the live session's, else the newest.
            keep: leave the session live at the end.
        """
        return Session(self, model, session_id, version, keep)

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

    async def close_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> int:
        """End a session without having it open here; returns the steps it had applied."""
        request = pb.CloseRequest(model=model, version=version, session_id=session_id)
        return (await self._call(self._rpc.Close, request, timeout)).steps

    @property
    def _rpc(self) -> "pb_grpc.TidegateAsyncStub":
        if self._stub is None:
            raise RuntimeError("the client is not connected: use `async with Client(...)`")
        return self._stub

    async def _call(self, method: Method[Reply], request: Request, timeout: float | None) -> Reply:
        limit = self.options.timeout if timeout is None else timeout
        try:
            return await method(request, timeout=limit)
        except aio.AioRpcError as error:
            raise errors.from_rpc(error) from None


class Session:
    """One session. Steps may be asked for from several tasks; they go out in that order."""

    def __init__(
        self, client: Client, model: str, session_id: str, version: int, keep: bool
    ) -> None:
        self._client = client
        self.name, self.session_id, self.version = model, session_id, version
        self.keep = keep
        """Whether leaving the `async with` block leaves the session live."""
        self.created = False
        """Whether opening made the session; False where it was live already."""
        self._stepper: Stepper | None = None
        self._order = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.keep:
            return
        try:
            await self.close()
        except errors.SessionGone:
            pass  # it has ended, which is what was wanted
        except errors.TidegateError:
            if error is None:  # the block's own failure tells more
                raise

    async def open(self, *, timeout: float | None = None) -> None:
        """Open the session, or attach to the live one and go on at its count."""
        request = pb.OpenRequest(model=self.name, version=self.version, session_id=self.session_id)
        client = self._client
        reply = await client._call(client._rpc.Open, request, timeout)
        self.created, self.version = reply.created, reply.session.version
        model = await client.model(self.name, self.version, timeout=timeout)
        self._stepper = Stepper(model, reply.session)

    async def close(self, *, timeout: float | None = None) -> int:
        """End the session; returns the steps the server had applied."""
        return await self._client.close_session(
            self.name, self.session_id, version=self.version, timeout=timeout
        )

    async def info(self, *, timeout: float | None = None) -> SessionInfo:
        """The session as the server sees it."""
        request = pb.GetRequest(model=self.name, version=self.version, session_id=self.session_id)
        client = self._client
        return SessionInfo.from_proto(await client._call(client._rpc.Get, request, timeout))

    @property
    def model(self) -> Model:
        """The model version to which the session is pinned."""
        return self._opened.model

    @property
    def steps(self) -> int:
        """Steps known to be applied; the next step's number."""
        return self._opened.steps

    async def step(self, features: ArrayLike, *, timeout: float | None = None) -> FloatArray:
        """Apply one observation of raw features; returns the outputs, float32 [O]."""
        stepper = self._opened
        return (await self._drive(stepper.run(stepper.one(features)), timeout)).reshape(-1)

    async def chunk(self, features: ArrayLike, *, timeout: float | None = None) -> FloatArray:
        """Apply consecutive observations [T, I], in as many requests as needed; returns [T, O].

        `timeout` is for all of them together.
        """
        stepper = self._opened
        return await self._drive(stepper.run(stepper.many(features)), timeout)

    async def _drive(self, run: Run, timeout: float | None) -> FloatArray:
        client = self._client
        deadline = Deadline(client.options.timeout if timeout is None else timeout)
        async with self._order:
            try:
                request = next(run)
                while True:
                    try:
                        reply = await client._call(client._rpc.Step, request, deadline.left())
                    except errors.TidegateError as error:
                        request = run.throw(error)
                    else:
                        request = run.send(reply)
            except StopIteration as done:
                outputs: FloatArray = done.value
                return outputs

    @property
    def _opened(self) -> Stepper:
        if self._stepper is None:
            raise RuntimeError("the session is not open: use `async with client.session(...)`")
        return self._stepper
