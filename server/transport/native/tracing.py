"""Whether calls are traced: by `--traces-endpoint`, or by what OpenTelemetry's variables say."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from server.config import Config, ConfigError

if TYPE_CHECKING:
    from server.transport.native.traces import Traces

log = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def traces(config: Config) -> Traces | None:
    """What makes spans, or None.

    Raises:
        ConfigError: they are asked for by our own setting, and the package is missing.
    """
    if not (config.traces_endpoint or _asked_by_variables()):
        return None
    try:
        from server.transport.native.traces import Traces
    except ImportError as error:
        text = "traces need opentelemetry: pip install 'tidegate[tracing]'"
        if config.traces_endpoint:
            raise ConfigError(f"traces_endpoint: {text}") from error
        log.warning("%s", text)
        return None
    made = Traces(config.traces_endpoint, config.traces_ratio)
    log.info("calls are traced, %g of those that nobody has decided on", config.traces_ratio)
    return made


def _asked_by_variables() -> bool:
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    none = os.environ.get("OTEL_TRACES_EXPORTER", "") == "none"
    return any(map(os.environ.get, ENDPOINTS)) and not (off or none)
