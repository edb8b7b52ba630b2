"""The `Admin` calls' messages: what they ask for, and what became of it. All of it blocks."""

from __future__ import annotations

from server.api import description
from server.api.errors import detail
from server.errors import BadInput
from server.serving.administration import Administration
from server.serving.migration import By
from server.serving.model import ServedModel
from server.serving.process import Process
from tidegate import __version__
from tidegate.v1 import admin_pb2 as pb

BY = {pb.MIGRATE_BY_STATE: By.STATE, pb.MIGRATE_BY_INPUTS: By.INPUTS}


def load(administration: Administration, request: pb.LoadRequest) -> pb.LoadReply:
    """Load a version. Raises as `Administration.load`, and BadInput without a version."""
    _check_version(request.version, "version")
    model, newest = administration.load(request.model, request.version)
    return pb.LoadReply(model=description.model(model, newest))


def unload(administration: Administration, request: pb.UnloadRequest) -> pb.UnloadReply:
    """Let a version fade out. Raises as `Administration.unload`, and BadInput without a version."""
    _check_version(request.version, "version")
    left = administration.unload(request.model, request.version, request.force)
    return pb.UnloadReply(sessions=left)


def migrate(administration: Administration, request: pb.MigrateRequest) -> pb.MigrateReply:
    """Move sessions.

    Raises:
        BadInput: the versions are the same, no session is named, or it is not said by what.
        ServingError: as `Administration.migrate`.
    """
    _check_version(request.from_version, "from_version")
    _check_version(request.to_version, "to_version")
    if request.from_version == request.to_version:
        raise BadInput("from_version and to_version are the same", field="to_version")
    if request.all == bool(request.session_ids):
        raise BadInput("name session_ids, or ask for all", field="session_ids")
    if (by := BY.get(request.by)) is None:
        raise BadInput("by must be MIGRATE_BY_STATE or MIGRATE_BY_INPUTS", field="by")
    ids = None if request.all else list(request.session_ids)
    done = administration.migrate(request.model, request.from_version, request.to_version, ids, by)
    refused = (pb.Refused(session_id=id_, error=detail(why)) for id_, why in done.stay.items())
    return pb.MigrateReply(migrated=done.went, refused=refused)


def shadow(administration: Administration, request: pb.ShadowRequest) -> pb.ShadowReply:
    """Begin or end a shadow. Raises as `Administration.shadow`, and BadInput without a version."""
    _check_version(request.version, "version")
    administration.shadow(request.model, request.version, request.on)
    return pb.ShadowReply()


def describe(process: Process) -> pb.DescribeReply:
    """The server as it stands."""
    registry = process.registry
    reply = pb.DescribeReply(
        version=__version__,
        draining=registry.draining,
        log_level=process.log_level,
        settings=process.settings(),
        models=[_served(model, registry.newest(model.name) is model) for model in registry],
        broken=[pb.BrokenVersion(model=n, version=v, why=why) for n, v, why in registry.broken()],
        tenants=[pb.TenantSessions(tenant=t, sessions=n) for t, n in process.tenants()],
    )
    reply.started_at.FromMicroseconds(int(process.started_at * 1e6))
    return reply


def set_log_level(process: Process, request: pb.SetLogLevelRequest) -> pb.SetLogLevelReply:
    """Log more, or less. Raises as `Process.set_log_level`."""
    return pb.SetLogLevelReply(before=process.set_log_level(request.level))


def _served(model: ServedModel, newest: bool) -> pb.ServedVersion:
    return pb.ServedVersion(
        model=model.name,
        version=model.version,
        newest=newest,
        leaving=model.leaving,
        sessions=len(model.directory),
        queued_steps=model.queued,
    )


def _check_version(version: int, field: str) -> None:
    if version < 1:
        raise BadInput(f"{field} must be a version, from 1", field=field)
