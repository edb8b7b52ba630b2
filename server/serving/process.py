"""What operators ask of the server itself: how it stands, what it logs, and to end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from server.config import Config
from server.errors import BadInput
from server.serving.registry import Registry

LEVELS: Final = ("debug", "info", "warning", "error")
MOST_TENANTS: Final = 1000

log = logging.getLogger(__name__)


class Process:
    """The process that serves. Any thread may ask.

    Args:
        on_drain: has it drain and end.
    """

    def __init__(self, config: Config, registry: Registry, on_drain: Callable[[], None]) -> None:
        self._config, self.registry, self._on_drain = config, registry, on_drain
        self.started_at = time.time()

    def settings(self) -> Mapping[str, str]:
        """All settings by name, in words; secrets hide themselves."""
        return {name: str(getattr(self._config, name)) for name in type(self._config).model_fields}

    def tenants(self) -> list[tuple[str, int]]:
        """Tenants and their live sessions, the most first; "" is for callers without one."""
        counts = Counter[str]()
        for model in self.registry:
            counts.update(model.directory.tenants())
        return counts.most_common(MOST_TENANTS)

    @property
    def log_level(self) -> str:
        """The least that is logged."""
        return logging.getLevelName(logging.getLogger().level).lower()

    def set_log_level(self, level: str) -> str:
        """Log from this level on; returns the one before.

        Raises:
            BadInput: there is no such level.
        """
        if level not in LEVELS:
            raise BadInput(f"level must be one of {', '.join(LEVELS)}", field="level")
        before = self.log_level
        logging.getLogger().setLevel(level.upper())
        log.warning("what is %s and graver is logged from now on", level)
        return before

    def drain(self) -> None:
        """Begin to drain, and end the process after."""
        log.info("an operator has the server drain")
        self._on_drain()
