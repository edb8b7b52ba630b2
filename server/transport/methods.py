"""The methods that a transport serves, counted under the names that Go's gRPC middleware gives
such metrics: dashboards made for those work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.transport.http2.tally import CODES, Method
from server.transport.rpcs.calls import Handler

KINDS: Final = ("unary", "client_stream", "server_stream", "bidi_stream")
LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")


def kind(handler: Handler) -> str:
    """What kind of calls a handler serves."""
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


class Methods(Collector):
    """All methods by their paths. What callers name and is not served is one of them, "unknown":
    there is no end of names."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._methods = {path: _method(path, handler) for path, handler in handlers.items()}
        self.unknown = Method("unknown", "unknown", "unary")

    def __getitem__(self, path: str) -> Method:
        return self._methods.get(path, self.unknown)

    def __iter__(self) -> Iterator[Method]:
        yield from self._methods.values()
        yield self.unknown

    def collect(self) -> Iterable[Metric]:
        """The families as they stand."""
        started = CounterMetricFamily("grpc_server_started", "Calls begun.", labels=LABELS)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that are over.", labels=(*LABELS, "grpc_code")
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds from a call's arrival to its end.",
            labels=LABELS,
        )  # fmt: skip
        under_way = GaugeMetricFamily(
            "tidegate_calls_under_way", "Calls begun and not over.", labels=LABELS[:1]
        )
        kinds = Counter(dict.fromkeys(KINDS, 0))
        for method in self:
            labels = [method.kind, method.service, method.name]
            started.add_metric(labels, method.started)
            kinds[method.kind] += method.under_way
            if not (ended := method.ended.copy()):
                continue  # or methods that nobody calls would be most of the page
            for code, count in ended.items():
                handled.add_metric([*labels, CODES[code]], count)
            seconds.add_metric(labels, *method.seconds.cumulative())
        for name, count in kinds.items():
            under_way.add_metric([name], count)
        return [started, handled, seconds, under_way]


def _method(path: str, handler: Handler) -> Method:
    service, _, name = path.removeprefix("/").rpartition("/")
    return Method(service, name, kind(handler))


class Handlers:
    """Collects handlers, as a `grpc.aio.Server` would take them."""

    def __init__(self) -> None:
        self.by_path: dict[str, Handler] = {}

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, Handler]
    ) -> None:
        """Serve the methods of a service."""
        self.by_path |= {f"/{service_name}/{name}": each for name, each in method_handlers.items()}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Generated code offers its handlers both ways; they are taken as registered ones."""
