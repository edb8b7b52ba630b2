"""What the process tells of itself: its build, its threads and files, and faults that only the log
has."""

from __future__ import annotations

import logging
import platform
from importlib import metadata
from pathlib import Path

import onnxruntime
from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.process_collector import ProcessCollector

from server.engine.device import Device

TASKS = Path("/proc/self/task")
PARTS = (
    "access", "api", "app", "bundle", "engine", "other", "scheduler", "serving", "sessions",
    "store", "transport",
)  # fmt: skip


class Faults(logging.Handler):
    """Counts what is logged with a traceback: nobody expected it, and perhaps no caller heard."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(logging.ERROR)
        text = "Errors that nobody expected, by the part of the server; the log has each."
        self._count = Counter("tidegate_unexpected_errors", text, ["part"], registry=registry)
        for part in PARTS:  # so that there is a 0 to rise from
            self._count.labels(part)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        if record.exc_info:
            part = (*record.name.split("."), "other")[1]
            self._count.labels(part if part in PARTS else "other").inc()


def expose(registry: CollectorRegistry, device: Device) -> None:
    """Have the registry tell of this process."""
    ProcessCollector(registry=registry)
    Gauge("tidegate_threads", "Threads of the process.", registry=registry).set_function(
        lambda: sum(1 for _ in TASKS.iterdir())
    )
    Info("tidegate_build", "What runs.", registry=registry).info(
        {
            "release": metadata.version("tidegate"),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "device": device.name,
        }
    )
    logging.getLogger("server").addHandler(Faults(registry))
