"""What operators ask of a server: the calls of `tidegate.v1.Admin`. Failures come out typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from tidegate import errors
from tidegate._stream import packing
from tidegate._stream.calls import Calls
from tidegate._stream.channels import opened
from tidegate.errors import TidegateError
from tidegate.options import ClientOptions
from tidegate.v1 import admin_pb2 as pb
from tidegate.v1 import admin_pb2_grpc as pb_grpc

BY = {"state": pb.MIGRATE_BY_STATE, "inputs": pb.MIGRATE_BY_INPUTS}


class Operator(Calls):
    """An operator's connection, within `async with`. `timeout` is in seconds, as in `Calls`.

    Raises:
        OSError: a file that `ClientOptions.tls` names cannot be read.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        super().__init__(options or ClientOptions())
        self._channel = opened(address, self.options)
        self._admin: pb_grpc.AdminAsyncStub = pb_grpc.AdminStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def load(self, model: str, version: int, *, timeout: float | None = None) -> None:
        """Have the server look at a version's folder now; returns once it serves.

        Raises:
            UnknownVersion: there is no such folder.
            BadModel: it cannot be served; the message says why.
        """
        request = pb.LoadRequest(**_version(model, version))
        await self._call(self._admin.Load, request, timeout)

    async def unload(
        self, model: str, version: int, *, force: bool = False, timeout: float | None = None
    ) -> int:
        """Let a version fade out, or by `force` end its sessions; how many it waits for.

        Raises:
            UnknownVersion: it is not served.
        """
        request = pb.UnloadRequest(**_version(model, version), force=force)
        return (await self._call(self._admin.Unload, request, timeout)).sessions

    async def shadow(
        self, model: str, version: int, on: bool = True, *, timeout: float | None = None
    ) -> None:
        """Have a version step along unseen beside the newest; or no longer.

        Raises:
            UnknownVersion: it is not served.
            BadSnapshot: its features or outputs differ in width from the newest version's.
        """
        request = pb.ShadowRequest(**_version(model, version), on=on)
        await self._call(self._admin.Shadow, request, timeout)

    async def describe(self, *, timeout: float | None = None) -> pb.DescribeReply:
        """How the server stands."""
        return await self._call(self._admin.Describe, pb.DescribeRequest(), timeout)

    async def set_log_level(self, level: str, *, timeout: float | None = None) -> str:
        """Have it log from a level on: debug, info, warning, error; returns the one before."""
        request = pb.SetLogLevelRequest(level=level)
        return (await self._call(self._admin.SetLogLevel, request, timeout)).before

    async def drain(self, *, timeout: float | None = None) -> None:
        """Have it drain and end; returns as it begins."""
        await self._call(self._admin.Drain, pb.DrainRequest(), timeout)

    async def migrate(
        self,
        model: str,
        origin: int,
        target: int,
        session_ids: Sequence[str] | None = None,
        *,
        by: str = "state",
        timeout: float | None = None,
    ) -> tuple[list[str], dict[str, TidegateError]]:
        """Move live sessions, None: all, to another version; those that went, and why others stay.

        Args:
            by: "state", or "inputs", which are stepped from the initial state.

        Raises:
            UnknownVersion: a version is not served.
            BadSnapshot: no session of the one can go on in the other.
        """
        ids = session_ids or []
        request = pb.MigrateRequest(
            model=packing.model_name(model), from_version=origin, to_version=target,
            session_ids=ids, all=session_ids is None, by=BY[by],
        )  # fmt: skip
        reply = await self._call(self._admin.Migrate, request, timeout)
        stay = {each.session_id: errors.from_detail(each.error) for each in reply.refused}
        return list(reply.migrated), stay


def _version(model: str, version: int) -> dict[str, Any]:
    return {"model": packing.model_name(model), "version": packing.whole(version, "version")}
