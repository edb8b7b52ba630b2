"""The audit: a record for each call that takes, moves, ends or reads whole sessions, or changes
which models are served. Steps, and what opens sessions for them, leave none.

A record says which rpc, about what, from where, by whom and how it ended; see `Audit`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

from server.access.caller import CALLER
from server.logs.setup import AUDIT
from server.names import own
from server.transport.rpcs.calls import Context, Note, about

AUDITED: Final = frozenset(
    {"Export", "Import", "Fork", "Close", "CloseMany", "Reset", "Peek", "List"}
)
"""Rpcs of `Tidegate`; of `Admin` all are."""
SHOWN: Final = 32
"""Ids of a call about many sessions."""

log = logging.getLogger(AUDIT)


class Audit:
    """Writes the records of one server. Used on the event loop."""

    def of(self, rpc: str) -> Note:
        """What takes note of calls of that rpc."""

        def note(context: Context, request: Any, reply: Any, outcome: str) -> None:
            if not log.isEnabledFor(logging.INFO):
                return
            known = {
                **dict(_object(request)),
                "failed": _failures(reply),
                "outcome": outcome,
                "peer": peer(context),
                "identity": identity(),
                **about(context.invocation_metadata()),
            }
            log.info("%s", rpc, extra=known)

        return note


def identity() -> str:
    """Who calls, as its token says: NAME or NAME@TENANT; "" where nobody has to say so."""
    if (caller := CALLER.get()) is None:
        return ""
    return f"{caller.name}@{caller.tenant}" if caller.tenant else caller.name


def peer(context: Context) -> str:
    """Where the call comes from: an address and a port, the last hop's."""
    kind, _, where = unquote(context.peer()).partition(":")
    return where if kind in ("ipv4", "ipv6") else unquote(context.peer())


def _object(request: Any) -> Iterator[tuple[str, str | int]]:
    """What a request is about, in the words of `layout.FIELDS`."""
    of = getattr(request, "snapshot", request)
    yield "model", getattr(of, "model", "")
    yield "version", getattr(of, "version", 0) or getattr(of, "from_version", 0) or ""
    yield "session", own(getattr(request, "session_id", "") or getattr(of, "session_id", ""))
    yield "new_session", own(getattr(request, "new_session_id", ""))
    yield "to_version", getattr(request, "to_version", None) or ""
    ids = getattr(request, "session_ids", ())
    if ids:
        more = " ..." if len(ids) > SHOWN else ""
        yield "sessions", len(ids)
        yield "session", " ".join(map(own, ids[:SHOWN])) + more


def _failures(reply: Any) -> int | None:
    """Of a call about many sessions: how many it failed for."""
    refused = len(getattr(reply, "refused", ()))
    outcomes = getattr(reply, "outcomes", ())
    return refused + sum(each.HasField("error") for each in outcomes) or None
