"""`python -m server` and `tidegate-server`: read the settings, run the server, say what failed."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from server.app import App
from server.config import Config, ConfigError, from_arguments
from server.engine.device import DeviceError
from server.serving.loader import NoModels
from server.store.interface import StoreUnreachable, StoreUnusable
from server.transport.listening import PortTaken

CANNOT_START = (
    ConfigError, DeviceError, NoModels, PortTaken, StoreUnreachable, StoreUnusable,
)  # fmt: skip


def main() -> int:
    """Exit status: 0 drained, 1 not drained in time or a part of it died, 2 could not start."""
    try:
        config = from_arguments()
        _log_to_stderr(config.log_level)
        return asyncio.run(_serve(config))
    except (*CANNOT_START, OSError) as error:
        print(f"tidegate-server: {error}", file=sys.stderr)
        return 2


async def _serve(config: Config) -> int:
    app = App(config)
    status = 0 if await app.run() else 1
    if app.loading:  # to end the interpreter under onnxruntime's feet would abort the process
        logging.shutdown()
        os._exit(status)
    return status


def _log_to_stderr(level: str) -> None:
    layout = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=level.upper(), format=layout, stream=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
