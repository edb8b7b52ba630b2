"""`python -m server` and `tidegate-server`: read the settings, run the server, say what failed."""

from __future__ import annotations

import asyncio
import logging
import sys

from server.app import App
from server.config import Config, ConfigError, from_arguments
from server.engine.device import DeviceError
from server.serving.loader import NoModels
from server.transport.aio.server import PortTaken


def main() -> int:
    """Exit status: 0 drained, 1 not drained in time or a part of it died, 2 could not start."""
    try:
        config = from_arguments()
        _log_to_stderr(config.log_level)
        return 0 if asyncio.run(_serve(config)) else 1
    except (ConfigError, DeviceError, NoModels, PortTaken, OSError) as error:
        print(f"tidegate-server: {error}", file=sys.stderr)
        return 2


async def _serve(config: Config) -> bool:
    return await App(config).run()


def _log_to_stderr(level: str) -> None:
    layout = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=level.upper(), format=layout, stream=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
