"""The unary calls: everything but steps. Failures come out typed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from grpc import aio
from numpy.typing import ArrayLike, NDArray

from tidegate import errors, wire
from tidegate._stream import packing
from tidegate._stream.channels import Channels
from tidegate._stream.gathered import Gathered, Kind
from tidegate.errors import TidegateError
from tidegate.model import Catalogue, FloatArray, Model, SessionInfo
from tidegate.options import ClientOptions
from tidegate.shards import SHARD_KEY, shard_of
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

# Not made again by gRPC after a lost connection.
CHANGES = (pb.ImportRequest, pb.ForkRequest, pb.ResetRequest)
Request = TypeVar("Request")
Reply = TypeVar("Reply")
Method = Callable[..., Awaitable[Reply]]
Metadata = tuple[tuple[str, str], ...]


class Calls:
    """What a client asks of a server about models and whole sessions.

    Everywhere, `version` 0 is the version that holds the session, or the newest; `timeout` is in
    seconds, retries included, `ClientOptions.timeout` where it is left out. What is no model's
    name, version or session's id raises `BadInput`, naming the field.
    """

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self._catalogue = Catalogue()
        self._channels: Channels | None = None
        self._closed = False
        self._opens = Gathered(self._open_one, self._open_many, options.retry)
        self._closes = Gathered(self._close_one, self._close_many, options.retry)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every model version served."""
        request = pb.ListModelsRequest()
        return self._catalogue.fill(await self._call(self._rpc.ListModels, request, timeout))

    async def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """One model; version 0 is the newest. Asks the server only for what was not seen yet."""
        packing.model_name(name), packing.whole(version, "version")
        known = self._catalogue.find(name, version)
        if known is None:
            await self.models(timeout=timeout)
            known = self._catalogue.pick(name, version)
        return known

    async def sessions(
        self, model: str, version: int = 0, *, timeout: float | None = None
    ) -> AsyncIterator[SessionInfo]:
        """Every live session of a model, page after page, for each of which `timeout` holds."""
        request = pb.ListRequest(**_model(model, version), page_size=1000)
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
        """Open a session, or find the live one. `Client.session` is the usual way. What is asked
        for at the same time travels together."""
        return await self._ask(self._opens, model, version, session_id, timeout)

    async def get_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> SessionInfo:
        """A live session, without having it open here."""
        request = pb.GetRequest(**_session(model, version, session_id))
        return SessionInfo.from_proto(await self._call(self._rpc.Get, request, timeout))

    async def close_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> int:
        """End a session without having it open here; returns the steps it had applied. What is
        asked for at the same time travels together."""
        return (await self._ask(self._closes, model, version, session_id, timeout)).steps

    async def export_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> bytes:
        """A session's snapshot, as bytes to keep or to send. The session goes on."""
        return (await self._snapshot(model, version, session_id, timeout)).SerializeToString()

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
        request = pb.ImportRequest(replace=bool(replace))
        if session_id != "":
            request.session_id = packing.session_id(session_id)
        try:
            request.snapshot.ParseFromString(snapshot)
        except (DecodeError, TypeError) as error:
            told = f"these {len(snapshot)} bytes are" if isinstance(snapshot, bytes) else "this is"
            raise errors.BadSnapshot(f"{told} no snapshot") from error
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
            **_session(model, version, session_id),
            new_session_id=packing.session_id(new_session_id, "new_session_id"),
        )
        return SessionInfo.from_proto(await self._call(self._rpc.Fork, request, timeout))

    async def reset_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> SessionInfo:
        """Put a live session back to step 0. With it open here, use `Session.reset`."""
        request = pb.ResetRequest(**_session(model, version, session_id))
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
        reply = await self._forecast(model, version, session_id, steps, features, timeout)
        return outputs_of(reply, steps)

    async def peek(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A session's state: each state's name and its values."""
        return states_of(await self._peek(model, version, session_id, timeout))

    async def _snapshot(
        self, model: str, version: int, session_id: str, timeout: float | None
    ) -> pb.Snapshot:
        """As `Export` answers it; for sessions alone, like the two below."""
        request = pb.ExportRequest(**_session(model, version, session_id))
        return await self._call(self._rpc.Export, request, timeout)

    async def _forecast(
        self,
        model: str,
        version: int,
        session_id: str,
        steps: int,
        features: ArrayLike | None,
        timeout: float | None,
    ) -> pb.ForecastReply:
        """As `Forecast` answers it."""
        given = np.empty(0, np.float32) if features is None else packing.floats(features).ravel()
        request = pb.ForecastRequest(
            **_session(model, version, session_id),
            steps=packing.whole(steps, "steps", below=2**32),
            features=given.tolist(),
        )
        return await self._call(self._rpc.Forecast, request, timeout)

    async def _peek(
        self, model: str, version: int, session_id: str, timeout: float | None
    ) -> pb.PeekReply:
        """As `Peek` answers it."""
        request = pb.PeekRequest(**_session(model, version, session_id))
        return await self._call(self._rpc.Peek, request, timeout)

    @property
    def _rpc(self) -> pb_grpc.TidegateAsyncStub:
        return self._way.stub

    @property
    def _way(self) -> Channels:
        if self._closed:
            raise errors.Cancelled("the client was closed")
        if self._channels is None:
            raise RuntimeError("the client is not connected: use `async with Client(...)`")
        return self._channels

    async def _ask(
        self,
        gathered: Gathered[Reply],
        model: str,
        version: int,
        session_id: str,
        timeout: float | None,
    ) -> Reply:
        name = packing.session_id(session_id)
        shard = shard_of(name, self.options.shards)
        kind = packing.model_name(model), packing.whole(version, "version"), shard
        usual = self.options.timeout
        expiry = asyncio.get_running_loop().time() + packing.seconds(timeout, usual)
        _ = self._rpc  # there is a connection, or it is told now
        return await gathered.ask(kind, name, expiry, prompt=timeout is not None)

    async def _open_one(self, kind: Kind, session_id: str, expiry: float) -> pb.OpenReply:
        request = pb.OpenRequest(model=kind[0], version=kind[1], session_id=session_id)
        return await self._call(self._rpc.Open, request, left(expiry))

    async def _open_many(
        self, kind: Kind, ids: Sequence[str], expiry: float
    ) -> list[pb.OpenReply | TidegateError]:
        request = pb.OpenManyRequest(model=kind[0], version=kind[1], session_ids=ids)
        reply = await self._call(self._rpc.OpenMany, request, left(expiry))
        return [_outcome(each, each.opened) for each in reply.outcomes]

    async def _close_one(self, kind: Kind, session_id: str, expiry: float) -> pb.CloseReply:
        request = pb.CloseRequest(model=kind[0], version=kind[1], session_id=session_id)
        return await self._call(self._rpc.Close, request, left(expiry))

    async def _close_many(
        self, kind: Kind, ids: Sequence[str], expiry: float
    ) -> list[pb.CloseReply | TidegateError]:
        request = pb.CloseManyRequest(model=kind[0], version=kind[1], session_ids=ids)
        reply = await self._call(self._rpc.CloseMany, request, left(expiry))
        return [_outcome(each, each.closed) for each in reply.outcomes]

    async def _call(self, method: Method[Reply], request: Request, timeout: float | None) -> Reply:
        loop = asyncio.get_running_loop()
        expiry = loop.time() + packing.seconds(timeout, self.options.timeout)
        shard = shard_of(_named(request), self.options.shards)
        starting: list[TidegateError] = []
        while True:
            try:
                said = metadata(shard, self.options)
                return await method(request, timeout=expiry - loop.time(), metadata=said)
            except aio.AioRpcError as error:
                failure = errors.from_rpc(error)
            except (asyncio.CancelledError, aio.UsageError):
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # gRPC says so where the channel was closed, though nobody cancelled this task.
                raise errors.Cancelled("the client was closed") from None
            if starting and isinstance(failure, errors.DeadlineExceeded):
                raise starting[-1]  # which tells why
            starting.append(failure)
            pause = self._pause(failure, len(starting), request)
            if pause is None or loop.time() + pause >= expiry:
                raise failure
            await asyncio.sleep(pause)

    def _pause(self, error: TidegateError, attempts: int, request: object) -> float | None:
        """Seconds until a call that gRPC has given up is made again. Only a server that starts is
        waited for longer than gRPC would; it has done nothing yet. Nor has one from which the
        session moved, which gRPC cannot tell from one that was lost while it changed things."""
        moved = isinstance(error, errors.SessionMoved) and isinstance(request, CHANGES)
        if moved or isinstance(error, errors.Starting):
            return self.options.retry.after(error, attempts)
        return None


def _outcome(told: pb.OpenOutcome | pb.CloseOutcome, reply: Reply) -> Reply | TidegateError:
    return errors.from_detail(told.error) if told.HasField("error") else reply


def metadata(shard: int, options: ClientOptions) -> Metadata | None:
    """What tells a proxy where to route a call to, and the server who calls.

    Raises:
        Unauthenticated: the token cannot be had, or is none.
    """
    try:
        token = options.bearer()
    except Exception as error:
        raise errors.Unauthenticated(f"the token cannot be had: {error}") from error
    said: Metadata = ((SHARD_KEY, str(shard)),) if options.shards > 1 else ()
    if token is not None:
        if not (token and token.isascii() and token.isprintable()):
            raise errors.Unauthenticated("the token is none: it must be printable ASCII")
        said += (("authorization", f"Bearer {token}"),)
    return said or None


def _named(request: Any) -> str:
    """The session by whose shard a call is routed. Those of a call about many are of one. What
    names none, such as the pages of a list, goes to one server as well."""
    if isinstance(request, pb.OpenManyRequest | pb.CloseManyRequest):
        return request.session_ids[0]
    if isinstance(request, pb.ImportRequest):
        return request.session_id or request.snapshot.session_id
    return getattr(request, "session_id", "")


def outputs_of(reply: pb.ForecastReply, steps: int) -> FloatArray:
    """A forecast's outputs [steps, O]."""
    return np.array(reply.outputs, np.float32).reshape(steps, -1)


def states_of(reply: pb.PeekReply) -> dict[str, NDArray[Any]]:
    """A session's states by name."""
    return {
        each.name: np.frombuffer(each.data, wire.DTYPES[each.dtype]).reshape(tuple(each.shape))
        for each in reply.states
    }


def left(expiry: float) -> float:
    """Seconds until then, by the event loop's clock."""
    return expiry - asyncio.get_running_loop().time()


def _model(model: str, version: int) -> dict[str, Any]:
    return {"model": packing.model_name(model), "version": packing.whole(version, "version")}


def _session(model: str, version: int, session_id: str) -> dict[str, Any]:
    return {**_model(model, version), "session_id": packing.session_id(session_id)}
