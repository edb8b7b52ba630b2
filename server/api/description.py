"""Sessions and models as protocol messages, one by one and in lists."""

from __future__ import annotations

from collections.abc import Sequence

from server.api.errors import Details
from server.errors import BadInput, ServingError, Starting
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.sessions.standing import SessionInfo
from tidegate.v1 import tidegate_pb2 as pb

Opened = tuple[SessionInfo, bool] | ServingError
"""A session and whether it was opened just now; or why it is not open."""
Closed = int | ServingError
"""The steps that a session had applied; or why it has not ended."""

PAGE, LARGEST_PAGE = 100, 1000


def session(info: SessionInfo) -> pb.Session:
    """A live session."""
    message = pb.Session(
        model=info.model, version=info.version, session_id=info.session_id, steps=info.steps,
        durable_step=info.durable_step, life=info.life,
    )  # fmt: skip
    message.opened_at.FromMicroseconds(int(info.opened_at * 1e6))
    message.last_used_at.FromMicroseconds(int(info.last_used_at * 1e6))
    message.expires_at.FromMicroseconds(int(info.expires_at * 1e6))
    return message


def opened(info: SessionInfo, created: bool) -> pb.OpenReply:
    """A session that is open; and whether it was opened just now."""
    return pb.OpenReply(session=session(info), created=created)


def all_opened(outcomes: Sequence[Opened], details: Details) -> pb.OpenManyReply:
    """What became of many sessions that were to be opened."""
    return pb.OpenManyReply(
        outcomes=[
            pb.OpenOutcome(error=details.of(each))
            if isinstance(each, ServingError)
            else pb.OpenOutcome(opened=opened(*each))
            for each in outcomes
        ]
    )


def all_closed(outcomes: Sequence[Closed], details: Details) -> pb.CloseManyReply:
    """What became of many sessions that were to be ended."""
    return pb.CloseManyReply(
        outcomes=[
            pb.CloseOutcome(error=details.of(each))
            if isinstance(each, ServingError)
            else pb.CloseOutcome(closed=pb.CloseReply(steps=each))
            for each in outcomes
        ]
    )


def model(served: ServedModel, newest: bool) -> pb.Model:
    """A served model version; and whether it is the one that version 0 means."""
    manifest = served.manifest
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        features=[
            pb.Feature(name=f.name, unit=f.unit, missing=f.missing, labels=f.labels)
            for f in manifest.features
        ],
        outputs=[
            pb.Output(name=o.name, size=o.size, kind=o.kind, unit=o.unit, labels=o.labels)
            for o in manifest.outputs
        ],
        max_chunk=manifest.max_chunk,
        device=served.device,
        max_sessions=served.capacity,
        feeds_back=manifest.feedback is not None,
        max_forecast=served.max_forecast,
        newest=newest,
    )


def models(registry: Registry) -> pb.ListModelsReply:
    """Every model version served.

    Raises:
        Starting: they are not all loaded yet.
    """
    if not registry.ready:
        raise Starting
    models = (model(each, each is registry.newest(each.name)) for each in registry)
    return pb.ListModelsReply(models=models)


def sessions(registry: Registry, request: pb.ListRequest, prefix: str = "") -> pb.ListReply:
    """A page of live sessions, a version after the other; a token is VERSION/ID, the last session
    of the page before. Those alone whose names begin with `prefix`, which tokens leave out. With
    very many sessions it takes long, and may run in any thread.

    Raises:
        BadInput: the token is none of ours.
        ServingError: as `Registry.resolve` has it.
    """
    size = min(request.page_size or PAGE, LARGEST_PAGE)
    served = registry.versions(request.model, request.version)
    at, after = _page_token(request.page_token)
    found: list[pb.Session] = []
    for each in served:
        if at and each.version > at:
            continue
        start = after if each.version == at else ""
        page = each.directory.page(prefix + start, size + 1 - len(found), prefix)
        found += map(session, page)
        if len(found) > size:
            last = found[size - 1]
            token = f"{last.version}/{last.session_id.removeprefix(prefix)}"
            return pb.ListReply(sessions=found[:size], next_page_token=token)
    return pb.ListReply(sessions=found)


def _page_token(token: str) -> tuple[int, str]:
    version, slash, session_id = token.partition("/")
    if token and not (slash and version.isascii() and version.isdigit() and len(version) < 19):
        raise BadInput(f"page_token {token[:300]!r} is none of ours", field="page_token")
    return int(version or 0), session_id
