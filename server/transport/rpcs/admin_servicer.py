"""The rpcs of `tidegate.v1.Admin`: each blocks, so each has a thread, and none the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.api import admin
from server.serving.administration import Administration
from server.serving.process import Process
from server.transport.rpcs.calls import Context
from tidegate.v1 import admin_pb2 as pb
from tidegate.v1 import admin_pb2_grpc

Reply = TypeVar("Reply")

AT_ONCE = 4


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """Serves operators."""

    def __init__(self, administration: Administration, process: Process) -> None:
        self._administration, self._process = administration, process
        self._threads = ThreadPoolExecutor(AT_ONCE, "admin")

    async def Load(self, request: pb.LoadRequest, context: Context) -> pb.LoadReply:  # noqa: N802
        """Load a version."""
        return await self._do(admin.load, self._administration, request)

    async def Unload(  # noqa: N802
        self, request: pb.UnloadRequest, context: Context
    ) -> pb.UnloadReply:
        """Let a version fade out."""
        return await self._do(admin.unload, self._administration, request)

    async def Migrate(  # noqa: N802
        self, request: pb.MigrateRequest, context: Context
    ) -> pb.MigrateReply:
        """Move sessions."""
        return await self._do(admin.migrate, self._administration, request)

    async def Shadow(  # noqa: N802
        self, request: pb.ShadowRequest, context: Context
    ) -> pb.ShadowReply:
        """Begin or end a shadow."""
        return await self._do(admin.shadow, self._administration, request)

    async def Describe(  # noqa: N802
        self, request: pb.DescribeRequest, context: Context
    ) -> pb.DescribeReply:
        """Tell how the server stands."""
        return await self._do(admin.describe, self._process)

    async def SetLogLevel(  # noqa: N802
        self, request: pb.SetLogLevelRequest, context: Context
    ) -> pb.SetLogLevelReply:
        """Log more, or less."""
        return await self._do(admin.set_log_level, self._process, request)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainReply:  # noqa: N802
        """Begin to end."""
        self._process.drain()
        return pb.DrainReply()

    async def _do(self, work: Callable[..., Reply], *given: object) -> Reply:
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._threads, work, *given)
