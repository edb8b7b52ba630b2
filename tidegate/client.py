"""The asynchronous client: a channel, its streams by model version, and sessions over them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

import grpc
import numpy as np
from numpy.typing import ArrayLike

from tidegate import errors
from tidegate._stream import packing
from tidegate._stream.calls import Calls
from tidegate._stream.channels import Channels
from tidegate._stream.message import Block
from tidegate._stream.stream import Stream
from tidegate._stream.streams import Streams
from tidegate.model import ManySteps, Model
from tidegate.options import ClientOptions
from tidegate.session import Session


class Client(Calls):
    """A connection to a Tidegate server, for one event loop. Use it with `async with`.

    Raises:
        ValueError: from `ClientOptions`, naming the setting.
    """

    def __init__(
        self,
        address: str,
        options: ClientOptions | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(options or ClientOptions())
        self.address = address
        self.loop: asyncio.AbstractEventLoop
        self._credentials = credentials
        self._streams: dict[tuple[str, int], Streams] = {}
        self._newest: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def connect(self) -> None:
        """Make the channel, inside a running event loop. gRPC connects with the first call.

        Raises:
            OSError: a file that `ClientOptions.tls` names cannot be read.
        """
        self.loop = asyncio.get_running_loop()
        self._channels = Channels(self.address, self.options, self._credentials)
        self._closed = False

    async def close(self) -> None:
        """Close the channel. Sessions stay live on the server until they are closed or expire."""
        streams, self._streams = self._streams, {}
        channels, self._channels = self._channels, None
        self._closed |= channels is not None  # nothing begins any more
        for each in streams.values():
            await each.close()
        if channels is not None:
            await channels.close()

    def session(
        self, model: str, session_id: str, *, version: int = 0, keep: bool = False
    ) -> Session:
        """A session, for `async with`, which opens it (or attaches to the live one) and closes it.

        Args:
            model: the model's name.
            session_id: the caller's name for the session, 1 to 256 bytes of UTF-8.
            version: the model version; 0 is the live session's, else the newest.
            keep: leave the session live at the end.

        Raises:
            BadInput: what is no model's name, session's id or version.
        """
        return Session(self, model, session_id, version, keep)

    async def step_many(
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
        """Step many sessions at once, for callers that hold arrays and count steps themselves.

        Args:
            first_steps: [N], the number of each session's first step here, from 0. The same
                numbers with the same features again are a retry, which moves nothing.
            features: [N, I], a step for each session, or [N, T, I], a chunk for each.
            version: the model version; 0 is the newest at this client's first call that asked
                for the newest.
            create: open the sessions that are not live.

        Raises:
            BadInput: the arrays do not fit each other or the model.
            TidegateError: the server could not be reached. What is wrong with single rows, their
                ids included, stands in `ManySteps.errors`, and harms no other row; so does, of
                several `ClientOptions.shards`, that one could not be reached in time.
        """
        ids = _listed(session_ids)
        usual = self.options.timeout
        expiry = asyncio.get_running_loop().time() + packing.seconds(timeout, usual)
        packing.model_name(model), packing.whole(version, "version")
        streams = await self._streams_of(model, version or self._newest.get(model, 0), timeout)
        if not version:
            self._newest.setdefault(model, streams.model.version)
        steps = packing.rows(features, len(ids), streams.model)
        done: asyncio.Future[ManySteps] = self.loop.create_future()
        block = Block(ids, first_steps, steps, streams.model.width, create, done, expiry)
        block.flat = np.ndim(features) == 2
        return await streams.carry(block)

    async def stream_of(
        self, model: str, version: int, session_id: str, timeout: float | None = None
    ) -> Stream:
        """The stream that carries the steps of a model version's session; for sessions alone."""
        return (await self._streams_of(model, version, timeout)).of(session_id)

    async def _streams_of(self, model: str, version: int, timeout: float | None) -> Streams:
        if version and (known := self._streams.get((model, version))):
            return known
        found = await self.model(model, version, timeout=timeout)
        return self._streams.get((model, found.version)) or self._open_streams(found)

    def _open_streams(self, model: Model) -> Streams:
        streams = Streams(self._way.stream, model, self.options)
        self._streams[model.name, model.version] = streams
        return streams


def _listed(session_ids: Sequence[str]) -> list[str]:
    """Ids that may be counted; a string is one, and not as many as it has letters."""
    try:
        if not isinstance(session_ids, str):
            return list(session_ids)
    except TypeError:
        pass
    told = f"session_ids must be a sequence of strings, not {session_ids!r:.80}"
    raise errors.bad_input(told, "session_ids")
