"""OpenTelemetry spans of calls and of streams' messages, made once their replies have left.

Imported only where traces are asked for: `opentelemetry-sdk` is an extra. Which are sampled is
decided here, at once: a unary call as its caller decided, else by the ratio; a stream's message by
the ratio, unless the stream's caller decided against it. Never in them: sessions' ids, features.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.scheduler.submission import Submission
from server.transport.http2.call import Call
from server.transport.http2.tally import CODES, Tally

HEADERS: Final = ("traceparent", "tracestate")
UNTOLD: Final = "grpc."
"""Services of gRPC itself, such as health: probes are no work."""
LAST_SECONDS: Final = 3.0  # for spans on their way, at the end
EXPORT_SECONDS: Final = 2.0
OURS: Final = frozenset({2, 4, 12, 13, 14, 15})
"""Status codes that are the server's fault, as the conventions have it."""


@dataclass(slots=True)
class _Noted:
    tally: Tally
    parent: SpanContext | None
    since: float
    code: int
    submission: Submission | None
    rows: int


class Traces:
    """Used by the loop's thread alone, but for `close`.

    Args:
        endpoint: of the collector, for OTLP over gRPC; empty: as OTEL_* say.
        ratio: of what nobody has decided on.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        named = {SERVICE_VERSION: metadata.version("tidegate")}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            named[SERVICE_NAME] = "tidegate"
        resource = Resource.create(named)
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint or None, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tidegate")
        self._propagator = TraceContextTextMapPropagator()
        self._ratio, self._noted = ratio, list[_Noted]()

    def note(
        self,
        tally: Tally,
        call: Call,
        since: float,
        code: int,
        submission: Submission | None,
        rows: int,
    ) -> None:
        """A call is over, or a message has its reply; `end` follows in the same turn."""
        if tally.lasting or tally.method.service.startswith(UNTOLD):
            return
        parent = self._parent(call)
        decided = parent is not None and (not parent.trace_flags.sampled or not tally.streams)
        sampled = parent.trace_flags.sampled if decided and parent else self._drawn()
        if sampled:
            self._noted.append(_Noted(tally, parent, since, code, submission, rows))

    def end(self, now: float) -> None:
        """The replies have left."""
        noted, self._noted = self._noted, []
        zero = time.time_ns() - time.monotonic_ns()
        for each in noted:
            self._span(each, now, zero)

    def close(self) -> None:
        """Send what is left, within a moment."""
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(LAST_SECONDS)

    def _drawn(self) -> bool:
        return random.random() < self._ratio

    def _parent(self, call: Call) -> SpanContext | None:
        said = {name: value for name, value in call.metadata if name in HEADERS}
        if not said:
            return None
        context = self._propagator.extract(said, Context())
        parent = trace.get_current_span(context).get_span_context()
        return parent if parent.is_valid else None

    def _span(self, noted: _Noted, now: float, zero: int) -> None:
        method, parent = noted.tally.method, noted.parent
        links, context = [], Context()
        if parent is not None and noted.tally.streams:  # whose own trace would have no end
            links = [Link(parent)]
        elif parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(parent), context)
        span = self._tracer.start_span(
            f"{method.service}/{method.name}", context, SpanKind.SERVER,
            _attributes(noted), links, zero + int(noted.since * 1e9),
        )  # fmt: skip
        if noted.code in OURS:
            span.set_status(StatusCode.ERROR, CODES[noted.code])
        if noted.submission is not None:
            self._parts(span, noted.submission, zero)
        span.end(zero + int(now * 1e9))
        told = trace.format_trace_id(span.get_span_context().trace_id)
        noted.tally.exemplify(now - noted.since, told)

    def _parts(self, span: Span, submission: Submission, zero: int) -> None:
        """What its time went to."""
        if not submission.ran_at:
            return
        context = trace.set_span_in_context(span, Context())
        ran = submission.ran_at + submission.ran_for
        rows = {"tidegate.rows": len(submission)}
        for name, begun, over in (
            ("queue", submission.enqueued_at, submission.ran_at),
            ("run", submission.ran_at, ran),
        ):
            part = self._tracer.start_span(
                name, context, attributes=rows, start_time=zero + int(begun * 1e9)
            )
            part.end(zero + int(over * 1e9))


def _attributes(noted: _Noted) -> dict[str, str | int]:
    method, (model, version) = noted.tally.method, noted.tally.model
    told: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.service": method.service,
        "rpc.method": method.name,
        "rpc.grpc.status_code": noted.code,
    }
    if model:
        told |= {
            "tidegate.model": model,
            "tidegate.version": version,
            "tidegate.rows": noted.rows,
        }
    return told
