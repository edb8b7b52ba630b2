"""The one place where typed errors become gRPC statuses and `ErrorDetail` messages."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.errors import BadInput, Internal, ServingError
from tidegate.v1 import tidegate_pb2 as pb

log = logging.getLogger(__name__)

DETAIL_KEY = "tidegate-error-bin"
Context = grpc.aio.ServicerContext[Any, Any]


def detail(error: ServingError) -> pb.ErrorDetail:
    """The failure in typed form."""
    message = pb.ErrorDetail(
        reason=pb.Reason.Value(f"REASON_{error.reason}"),
        message=str(error),
        expected_step=error.expected_step,
        field=error.field,
        feature=error.feature,
        index=error.index,
        code=grpc.StatusCode[error.code].value[0],
    )
    if error.ended_at is not None:
        message.ended_at.FromMicroseconds(int(error.ended_at * 1e6))
    if error.retry_after is not None:
        message.retry_after_ms = _milliseconds(error.retry_after)
    return message


def trailing(error: ServingError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: the typed form, and gRPC's own retry delay where there is one."""
    entries: list[tuple[str, str | bytes]] = [(DETAIL_KEY, detail(error).SerializeToString())]
    if error.retry_after is not None:
        entries.append(("grpc-retry-pushback-ms", str(_milliseconds(error.retry_after))))
    return tuple(entries)


async def abort(context: Context, error: ServingError) -> None:
    """End the call with the error's status and details."""
    await context.abort(grpc.StatusCode[error.code], str(error), trailing(error))


async def read(context: Context) -> Any:
    """A stream's next message, or grpc.aio.EOF.

    Raises:
        BadInput: what came is no such message; the stream cannot go on.
    """
    try:
        return await context.read()
    except DecodeError as error:
        raise BadInput("the bytes received are no message of this call", field="") from error


@asynccontextmanager
async def translated(context: Context) -> AsyncIterator[None]:
    """Turn a typed error raised inside into the call's status, the unexpected into INTERNAL."""
    try:
        yield
    except ServingError as error:
        await abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception:
        log.exception("a call failed unexpectedly")
        await abort(context, Internal())


def _milliseconds(seconds: float) -> int:
    return min(2**31 - 1, max(1, math.ceil(seconds * 1000)))
