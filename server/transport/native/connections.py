"""What the loop's connections come to, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.transport.http2.loop import Loop

WHY: Final = ("peer", "broken", "drain", "failed", "flood", "greeting", "handshake", "keepalive",
              "protocol")  # fmt: skip
"""Why connections end; see docs/monitoring.md."""


class Connections(Collector):
    """Reads a loop's counts whenever they are scraped."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """The families as they stand."""
        loop, connections = self._loop, self._loop.connections
        ended = CounterMetricFamily(
            "tidegate_connections_ended", "Connections that are over.", labels=["reason"]
        )
        for why in WHY:
            ended.add_metric([why], loop.ended[why])
        return [
            GaugeMetricFamily("tidegate_connections", "Open connections.", len(connections)),
            GaugeMetricFamily(
                "tidegate_unsent_bytes",
                "Bytes of replies that peers have not taken yet.",
                sum(each.unsent for each in connections),
            ),
            CounterMetricFamily(
                "tidegate_connections_opened", "Connections taken.", value=loop.opened
            ),
            CounterMetricFamily(
                "tidegate_connections_refused",
                "Times that no connection could be taken: no file was left, or no memory.",
                value=loop.refused,
            ),
            CounterMetricFamily(
                "tidegate_connections_throttled",
                "Times that a connection was left unread for its floods.",
                value=loop.throttled,
            ),
            CounterMetricFamily("tidegate_received_bytes", "Bytes received.", value=loop.bytes_in),
            CounterMetricFamily("tidegate_sent_bytes", "Bytes sent.", value=loop.bytes_out),
            ended,
        ]
