"""A client's way to its server: a channel, and another once its certificates were renewed."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import grpc
from grpc import aio

from tidegate.options import ClientOptions
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0  # between two looks at the files
Seen = tuple[tuple[int, int, int], ...]


def opened(
    address: str, options: ClientOptions, credentials: grpc.ChannelCredentials | None = None
) -> aio.Channel:
    """A channel, encrypted as the credentials or the options say, if they do.

    Raises:
        OSError: a file that the options name cannot be read.
    """
    if credentials is None and options.tls is not None:
        credentials = options.tls.credentials()
    if credentials is None:
        return aio.insecure_channel(address, options.channel_options())
    return aio.secure_channel(address, credentials, options.channel_options())


class Channels:
    """Used inside one event loop.

    What has begun on a former channel ends there: streams hold it, other calls have their time.

    Raises:
        OSError: a file that `ClientOptions.tls` names cannot be read.
    """

    def __init__(
        self,
        address: str,
        options: ClientOptions,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._address, self._options, self._credentials = address, options, credentials
        watched = options.tls if credentials is None else None
        named = () if watched is None else (watched.ca, watched.cert, watched.key)
        self._files = [Path(each) for each in named if each is not None]
        self._looked, self._seen = time.monotonic(), _look(self._files)
        self._channel = opened(address, options, credentials)
        self._stub: pb_grpc.TidegateAsyncStub = pb_grpc.TidegateStub(self._channel)
        self._former: set[aio.Channel] = set()
        self._streams = WeakKeyDictionary[Any, aio.Channel]()

    @property
    def stub(self) -> pb_grpc.TidegateAsyncStub:
        """For a call that begins now."""
        if self._files and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._renew()
        return self._stub

    def stream(self, **said: Any) -> Any:
        """Begin a `StepStream`."""
        call = self.stub.StepStream(**said)
        self._streams[call] = self._channel  # which is closed when nobody holds it
        return call

    async def close(self) -> None:
        """End whatever goes on."""
        for channel in (self._channel, *self._former):
            await channel.close()

    def _renew(self) -> None:
        self._looked = time.monotonic()
        try:
            seen = _look(self._files)
            if seen == self._seen:
                return
            channel = opened(self._address, self._options)
        except OSError as error:
            log.warning("the certificates stay as they were: %s", error)
            return
        former, self._channel, self._seen = self._channel, channel, seen
        self._stub = pb_grpc.TidegateStub(channel)
        self._former.add(former)
        patience = 2 * self._options.timeout
        asyncio.get_running_loop().call_later(patience, self._former.discard, former)


def _look(files: list[Path]) -> Seen:
    stats = [file.stat() for file in files]
    return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in stats)
