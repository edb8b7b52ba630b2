"""The synchronous client: the asynchronous one, driven by an event loop in a thread of its own.

For threads: a client and its sessions may be used from several at a time, and steps that several
threads wait for travel together.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from numpy.typing import ArrayLike, NDArray

from tidegate import errors
from tidegate.client import Client
from tidegate.model import FloatArray, ManySteps, Model, SessionInfo
from tidegate.options import ClientOptions
from tidegate.session import Session
from tidegate.v1 import tidegate_pb2 as pb

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="tidegate-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have `work` done there and wait for it; an interrupted wait cancels it.

        Raises:
            Cancelled: the thread was ended meanwhile.
        """
        with self._lock:  # what is handed in before the thread is told to end is seen to
            if self._stopped:
                work.close()
                raise errors.Cancelled("the client was closed")
            done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result()
        except concurrent.futures.CancelledError:
            raise errors.Cancelled("the client was closed") from None
        except BaseException:
            done.cancel()
            raise

    def stop(self) -> None:
        """End the thread, and whatever still waits for it."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


class SyncClient:
    """A connection to a Tidegate server. Use it with `with`. Everything is as with `Client`."""

    def __init__(
        self,
        address: str,
        options: ClientOptions | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._client = Client(address, options, credentials)
        self.address, self.options = address, self._client.options
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Start the thread and make the channel. gRPC connects with the first call."""
        self._thread = LoopThread()
        self.run(_connect(self._client))

    def close(self) -> None:
        """Close the channel. Sessions stay live on the server until they are closed or expire."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._client.close())
            thread.stop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something that the client's event loop does."""
        thread = self._thread  # which another thread's `close` may take away meanwhile
        if thread is None:
            work.close()
            raise RuntimeError("the client is not connected: use `with SyncClient(...)`")
        return thread.run(work)

    def session(
        self, model: str, session_id: str, *, version: int = 0, keep: bool = False
    ) -> SyncSession:
        """A session, for `with`, which opens it (or attaches to the live one) and closes it."""
        return SyncSession(
            self, self._client.session(model, session_id, version=version, keep=keep)
        )

    def step_many(
        self,
        model: str,
        session_ids: Sequence[str],
        first_steps: ArrayLike,
        features: ArrayLike,
        *,
        version: int = 0,
        create: bool = True,
        timeout: float | None = None,
    ) -> ManySteps:
        """Step many sessions at once; see `Client.step_many`."""
        return self.run(
            self._client.step_many(
                model, session_ids, first_steps, features,
                version=version, create=create, timeout=timeout,
            )
        )  # fmt: skip

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every model version served."""
        return self.run(self._client.models(timeout=timeout))

    def model(self, name: str, version: int = 0, *, timeout: float | None = None) -> Model:
        """One model; version 0 is the newest."""
        return self.run(self._client.model(name, version, timeout=timeout))

    def sessions(
        self, model: str, version: int = 0, *, timeout: float | None = None
    ) -> Iterator[SessionInfo]:
        """Every live session of a model, page after page."""
        pages = self._client.sessions(model, version, timeout=timeout)
        while (session := self.run(_next(pages))) is not None:
            yield session

    def open_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> pb.OpenReply:
        """Open a session, or find the live one. `SyncClient.session` is the usual way."""
        return self.run(
            self._client.open_session(model, session_id, version=version, timeout=timeout)
        )

    def get_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> SessionInfo:
        """A live session, without having it open here."""
        return self.run(
            self._client.get_session(model, session_id, version=version, timeout=timeout)
        )

    def close_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> int:
        """End a session without having it open here; returns the steps it had applied."""
        return self.run(
            self._client.close_session(model, session_id, version=version, timeout=timeout)
        )

    def export_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> bytes:
        """A session's snapshot, as bytes to keep or to send. The session goes on."""
        return self.run(
            self._client.export_session(model, session_id, version=version, timeout=timeout)
        )

    def import_session(
        self,
        snapshot: bytes,
        *,
        session_id: str = "",
        replace: bool = False,
        timeout: float | None = None,
    ) -> SessionInfo:
        """Make a session from a snapshot; see `Client.import_session`."""
        return self.run(
            self._client.import_session(
                snapshot, session_id=session_id, replace=replace, timeout=timeout
            )
        )

    def fork_session(
        self,
        model: str,
        session_id: str,
        new_session_id: str,
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> SessionInfo:
        """Copy a live session under another id; see `Client.fork_session`."""
        return self.run(
            self._client.fork_session(
                model, session_id, new_session_id, version=version, timeout=timeout
            )
        )

    def reset_session(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> SessionInfo:
        """Put a live session back to step 0. With it open here, use `SyncSession.reset`."""
        return self.run(
            self._client.reset_session(model, session_id, version=version, timeout=timeout)
        )

    def forecast(
        self,
        model: str,
        session_id: str,
        steps: int,
        features: ArrayLike | None = None,
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> FloatArray:
        """What a session would answer to its next `steps` steps; see `Client.forecast`."""
        return self.run(
            self._client.forecast(
                model, session_id, steps, features, version=version, timeout=timeout
            )
        )

    def peek(
        self, model: str, session_id: str, *, version: int = 0, timeout: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A session's state: each state's name and its values."""
        return self.run(self._client.peek(model, session_id, version=version, timeout=timeout))


class SyncSession:
    """One session. Steps may be asked for from several threads; they go in that order."""

    def __init__(self, client: SyncClient, session: Session) -> None:
        self._client, self._session = client, session
        self.name, self.session_id, self.keep = session.name, session.session_id, session.keep

    def __enter__(self) -> Self:
        self._client.run(self._session.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.run(self._session.__aexit__(kind, error, trace))

    def open(self, *, timeout: float | None = None) -> None:
        """Open the session, or attach to the live one and go on at its count."""
        self._client.run(self._session.open(timeout=timeout))

    def close(self, *, timeout: float | None = None) -> int:
        """End the session; returns the steps the server had applied."""
        return self._client.run(self._session.close(timeout=timeout))

    def info(self, *, timeout: float | None = None) -> SessionInfo:
        """The session as the server sees it."""
        return self._client.run(self._session.info(timeout=timeout))

    @property
    def created(self) -> bool:
        """Whether opening made the session; False where it was live already."""
        return self._session.created

    @property
    def version(self) -> int:
        """The model version to which the session is pinned."""
        return self._session.version

    @property
    def model(self) -> Model:
        """The model version to which the session is pinned."""
        return self._session.model

    @property
    def steps(self) -> int:
        """Steps known to be applied; the next step's number."""
        return self._session.steps

    @property
    def durable_step(self) -> int:
        """Steps below this number are in the server's store, as it told last; 0 without one."""
        return self._session.durable_step

    def step(self, features: ArrayLike, *, timeout: float | None = None) -> FloatArray:
        """Apply one observation of raw features; returns the outputs, float32 [O]."""
        return self._client.run(self._session.step(features, timeout=timeout))

    def chunk(self, features: ArrayLike, *, timeout: float | None = None) -> FloatArray:
        """Apply consecutive observations [T, I], in as many requests as needed; returns [T, O]."""
        return self._client.run(self._session.chunk(features, timeout=timeout))

    def forecast(
        self, steps: int, features: ArrayLike | None = None, *, timeout: float | None = None
    ) -> FloatArray:
        """What the session would answer to its next `steps` steps, f32 [steps, O]."""
        return self._client.run(self._session.forecast(steps, features, timeout=timeout))

    def fork(self, session_id: str, *, timeout: float | None = None) -> SyncSession:
        """Copy the session under another id; the copy is open and goes on from here."""
        copy = self._client.run(self._session.fork(session_id, timeout=timeout))
        return SyncSession(self._client, copy)

    def reset(self, *, timeout: float | None = None) -> None:
        """Put the session back to step 0 and its initial state, after what is under way."""
        self._client.run(self._session.reset(timeout=timeout))

    def export(self, *, timeout: float | None = None) -> bytes:
        """The session's snapshot, for `SyncClient.import_session`."""
        return self._client.run(self._session.export(timeout=timeout))

    def peek(self, *, timeout: float | None = None) -> dict[str, NDArray[Any]]:
        """The session's state: each state's name and its values."""
        return self._client.run(self._session.peek(timeout=timeout))


async def _connect(client: Client) -> None:
    client.connect()


async def _next(pages: AsyncIterator[SessionInfo]) -> SessionInfo | None:
    return await anext(pages, None)
