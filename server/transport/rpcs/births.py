"""Opening and closing sessions, one or many at once: one look into the store for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from server.api.description import Closed, Opened
from server.api.errors import Problems
from server.errors import BadInput, BadRecord, ServingError, VersionLeaves
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.rpcs.calls import in_turns
from tidegate.wire import MAX_SESSIONS

T = TypeVar("T")

AT_ONCE = 16  # sessions between two looks at whose turn it is


class Births:
    """Begins and ends sessions by name, on the event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def open(self, model: str, version: int, ids: Sequence[str]) -> list[Opened]:
        """Open sessions, or attach to those that are live.

        Raises:
            BadInput: there are too many. Or as `Registry.resolve`.
        """
        _check(ids)
        outcomes = await self._open(model, version, ids)
        left = [k for k, each in enumerate(outcomes) if isinstance(each, VersionLeaves)]
        if left and not version:  # the newest was taken away while the store was asked
            again = await self._open(model, version, [ids[k] for k in left])
            for k, outcome in zip(left, again, strict=True):
                outcomes[k] = outcome
        return outcomes

    async def close(self, model: str, version: int, ids: Sequence[str]) -> list[Closed]:
        """End sessions, and have the store forget them. Those whose records cannot be used, too.

        Raises:
            BadInput: there are too many.
            StoreDown: they have ended, and may be found in the store yet. Or as `Registry.resolve`.
        """
        _check(ids)
        sought = await self._seek(self._registry.versions(model, version), ids)
        problems = {k: why for k, why in sought.items() if not isinstance(why, BadRecord)}
        holders = [self._registry.holder(model, version, each) for each in ids]
        outcomes = await in_turns(_each(ServedModel.close, holders, ids, problems))
        for holder in set(holders):
            if (forgotten := holder.forgotten()) is not None:
                await asyncio.wrap_future(forgotten)
        return outcomes

    async def _open(self, model: str, version: int, ids: Sequence[str]) -> list[Opened]:
        newest = self._registry.resolve(model, version)
        versions = self._registry.versions(model, version)
        # What only one version may have is opened and looked for at the same time.
        problems = await self._seek(versions, ids) if len(versions) > 1 else {}
        found = [self._registry.holder(model, version, each) for each in ids]
        pairs = zip(ids, found, strict=True)
        holders = [each if name in each.directory else newest for name, each in pairs]
        wanted: dict[ServedModel, dict[str, bool]] = {}
        for name, holder in zip(ids, holders, strict=True):
            if name not in problems:
                wanted.setdefault(holder, {})[name] = True
        problems |= await _told(model.seek(names) for model, names in wanted.items())
        return await in_turns(_each(ServedModel.open, holders, ids, problems))

    async def _seek(self, versions: Sequence[ServedModel], ids: Iterable[str]) -> Problems:
        """Look for sessions in the store that no version has at hand; tells why some cannot be
        had."""
        away = [each for each in ids if not any(each in model.directory for model in versions)]
        return await _told(model.seek(dict.fromkeys(away, False)) for model in versions)


async def _told(sought: Iterable[Future[Problems] | None]) -> Problems:
    """What stores tell that are asked all at once."""
    problems: Problems = {}
    for each in list(sought):
        if each is not None:
            told: Problems = await asyncio.wrap_future(each)
            problems |= told
    return problems


def _each(
    do: Callable[[ServedModel, str], T],
    holders: Sequence[ServedModel],
    ids: Sequence[str],
    problems: Problems,
) -> Generator[None, None, list[T | ServingError]]:
    """What became of each session; yields now and then."""
    outcomes: list[T | ServingError] = []
    for holder, session_id in zip(holders, ids, strict=True):
        try:
            if (problem := problems.get(session_id)) is not None:
                raise problem
            outcomes.append(do(holder, session_id))
        except ServingError as error:
            outcomes.append(error)
        if len(outcomes) % AT_ONCE == 0:
            yield
    return outcomes


def _check(ids: Sequence[str]) -> None:
    if len(ids) > MAX_SESSIONS:
        text = f"{len(ids)} sessions in a call; at most {MAX_SESSIONS} go in one"
        raise BadInput(text, field="session_ids")
