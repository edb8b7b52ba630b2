"""Messages of callers that have to say who they are: what they send counts, and sessions are named
as the server names them on the way in, and as their callers do on the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Any

import numpy as np

from server.access.caller import Caller
from server.errors import BadInput, ServingError, Unauthenticated
from server.names import SEPARATOR
from tidegate.v1 import admin_pb2
from tidegate.v1 import tidegate_pb2 as pb

SEQUENCE_ID = "sequence_id"


def admit(caller: Caller, message: Any) -> None:
    """Take in a message of a caller: it counts, and names sessions as the server does from now on.

    Raises:
        Unauthenticated: the caller's token has run out since.
        QuotaReached: it may not send so much now; nothing is to be done.
        BadInput: an id could be another tenant's.
    """
    caller.check()
    caller.usage.take(message.ByteSize(), _steps(message))
    _inwards(message, caller.prefix)


def refusal(caller: Caller, message: Any) -> ServingError | None:
    """As `admit`, for a stream, which goes on without the message: why it is refused, if it is.

    Raises:
        Unauthenticated: the caller's token has run out since, and the stream is over.
    """
    try:
        admit(caller, message)
    except Unauthenticated:
        raise
    except ServingError as error:
        return error
    return None


def release(caller: Caller, reply: Any) -> None:
    """Name the sessions of a reply as the caller does."""
    if caller.prefix:
        for each in _told(reply):
            each.session_id = each.session_id.removeprefix(caller.prefix)
        if isinstance(reply, admin_pb2.MigrateReply):
            reply.migrated[:] = [each.removeprefix(caller.prefix) for each in reply.migrated]


def named(prefix: str, session_id: str) -> str:
    """A session's name inside the server.

    Raises:
        BadInput: the id could be another tenant's session.
    """
    if SEPARATOR in session_id:
        raise BadInput("session_id must not have U+001F, which parts names", field="session_id")
    return prefix + session_id


def _infers(message: Any) -> bool:
    """Whether it is the Open Inference Protocol's, whose messages this module does without: they
    cannot be in one process with those of Triton's client."""
    return bool(message.DESCRIPTOR.full_name == "inference.ModelInferRequest")


def _steps(message: Any) -> int:
    """How many steps it asks for, of those that a tenant pays for."""
    if isinstance(message, pb.StepBatch):
        lengths = np.frombuffer(message.lengths, "<u4", len(message.lengths) // 4)
        steps = int(lengths.sum(dtype=np.uint64)) if len(lengths) else len(message.lanes) // 4
        return min(steps, len(message.features) // 4)  # what it says beyond that is refused
    if _infers(message):
        return 1
    if isinstance(message, pb.StepRequest | pb.ForecastRequest):
        return message.steps or 1
    return 0


def _inwards(message: Any, prefix: str) -> None:
    if isinstance(message, pb.StepBatch):
        for lane in message.opens:
            lane.session_id = named(prefix, lane.session_id)
    elif _infers(message):
        _sequence_inwards(message, prefix)
    elif isinstance(message, pb.ImportRequest):
        for each in (message, message.snapshot):
            each.session_id = each.session_id and named(prefix, each.session_id)
    elif isinstance(message, pb.OpenManyRequest | pb.CloseManyRequest | admin_pb2.MigrateRequest):
        _all_inwards(message.session_ids, prefix)
    elif hasattr(message, "session_id"):
        message.session_id = named(prefix, message.session_id)
        if isinstance(message, pb.ForkRequest):
            message.new_session_id = named(prefix, message.new_session_id)


def _all_inwards(ids: MutableSequence[str], prefix: str) -> None:
    ids[:] = [named(prefix, each) for each in ids]


def _sequence_inwards(request: Any, prefix: str) -> None:
    """An int64 id is the text of its digits; one of another type is refused later."""
    if SEQUENCE_ID not in request.parameters:
        return
    value = request.parameters[SEQUENCE_ID]
    kind = value.WhichOneof("parameter_choice")
    if kind == "int64_param" and value.int64_param:
        value.string_param = named(prefix, str(value.int64_param))
    elif kind == "string_param" and value.string_param:
        value.string_param = named(prefix, value.string_param)


def _told(reply: Any) -> Iterator[Any]:
    """What in a reply has a session's name."""
    if isinstance(reply, pb.ListReply):
        yield from reply.sessions
    elif isinstance(reply, admin_pb2.MigrateReply):
        yield from reply.refused
    elif isinstance(reply, pb.OpenManyReply):
        yield from (each.opened.session for each in reply.outcomes if each.HasField("opened"))
    elif isinstance(reply, pb.OpenReply | pb.ImportReply | pb.PeekReply):
        yield reply.session
    elif isinstance(reply, pb.Session | pb.Snapshot):
        yield reply
