"""The server as a program: read the settings, run it, say what failed. `__main__` calls it once all
that it imports is there."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import NoReturn

from server.app import App
from server.bundle.repository import KeyProblem
from server.config import Config, ConfigError, from_arguments
from server.engine.device import DeviceError
from server.logs.layout import JsonLayout
from server.logs.setup import begin, follow
from server.logs.writer import Writer
from server.serving.loader import NoModels
from server.store.interface import StoreUnreachable, StoreUnusable
from server.transport.listening import PortTaken

CANNOT_START = (
    ConfigError, DeviceError, KeyProblem, NoModels, PortTaken, StoreUnreachable, StoreUnusable,
)  # fmt: skip

log = logging.getLogger("server")


def main() -> int:
    """Exit status: 0 drained, 1 not drained in time or a part of it died, 2 could not start."""
    writer = begin()
    try:
        config = from_arguments()
        follow(writer, config.log_level, config.log_format, config.audit)
        asyncio.run(_serve(config, writer))
    except (*CANNOT_START, OSError) as error:
        _say(writer, error)
        return 2
    except Exception:
        log.critical("the server failed", exc_info=True)
        return 1
    finally:
        writer.close()


def _say(writer: Writer, error: Exception) -> None:
    """Why it cannot start: the whole line, but where only JSON may be."""
    if isinstance(writer.formatter, JsonLayout):
        log.critical("cannot start: %s", error)
    else:
        writer.say(f"tidegate-server: {error}")


async def _serve(config: Config, writer: Writer) -> NoReturn:
    status = 0 if await App(config).run() else 1
    # Threads may be with a model or a store, which cannot be interrupted: to end the interpreter
    # would wait for some of them, and abort under the feet of others.
    writer.close()
    os._exit(status)
