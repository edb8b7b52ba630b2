"""The streams of one model version, one a shard, made as they are used; what bounds them all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from tidegate._stream.calls import metadata
from tidegate._stream.kept import Keeping
from tidegate._stream.message import Block
from tidegate._stream.outbox import Backlog
from tidegate._stream.packing import WIRE
from tidegate._stream.stream import Call, Stream
from tidegate.errors import TidegateError
from tidegate.model import ManySteps, Model
from tidegate.options import ClientOptions
from tidegate.shards import shard_of


class Streams:
    """Inside one event loop. `open_call` takes metadata."""

    def __init__(
        self, open_call: Callable[..., Call], model: Model, options: ClientOptions
    ) -> None:
        step_bytes = len(model.features) * WIRE.itemsize
        self.model = model
        self._backlog = Backlog(options.coalescing, step_bytes)
        self._keeping = Keeping(options.replay, step_bytes, model.max_chunk)
        self._open_call, self._options = open_call, options
        self._streams: dict[int, Stream] = {}

    def of(self, session_id: str) -> Stream:
        """The stream that carries a session's steps."""
        return self._of(shard_of(session_id, self._options.shards))

    async def carry(self, block: Block) -> ManySteps:
        """Send a block, its rows by their shards, and wait for all answers."""
        if self._options.shards == 1:
            return await self._of(0).carry(block)
        places = self._places(block.session_ids, set(block.errors))
        parts = {shard: block.part(rows) for shard, rows in places.items()}
        carried = (self._of(shard).carry(part) for shard, part in parts.items())
        outcomes = _outcomes(await asyncio.gather(*carried, return_exceptions=True))
        for rows, outcome in zip(places.values(), outcomes, strict=True):
            block.take(rows, outcome)
        return block.answer()

    async def close(self) -> None:
        """End every connection."""
        await asyncio.gather(*(stream.close() for stream in self._streams.values()))

    def _of(self, shard: int) -> Stream:
        stream = self._streams.get(shard)
        if stream is None:
            call = partial(self._call, shard)
            stream = Stream(call, self.model, self._options, self._backlog, self._keeping)
            self._streams[shard] = stream
        return stream

    def _call(self, shard: int) -> Call:
        return self._open_call(metadata=metadata(shard, self._options))

    def _places(self, session_ids: Sequence[str], without: set[int]) -> dict[int, Sequence[int]]:
        """By shard, where its sessions stand."""
        places: dict[int, list[int]] = defaultdict(list)
        for at, session_id in enumerate(session_ids):
            if at not in without:
                places[shard_of(session_id, self._options.shards)].append(at)
        return dict(places)


def _outcomes(found: Sequence[ManySteps | BaseException]) -> list[ManySteps | TidegateError]:
    """What became of each shard's rows; where it is the same bad end for all, that is raised."""
    good: list[ManySteps | TidegateError] = []
    for each in found:
        if not isinstance(each, ManySteps | TidegateError):
            raise each
        good.append(each)
    if good and all(isinstance(each, TidegateError) for each in good):
        raise good[0]  # type: ignore[misc]
    return good
