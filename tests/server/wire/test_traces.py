"""Spans of calls and messages as a collector gets them from a real server."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.conftest import SmallModel
from tests.harness import RunningServer, await_ready, running_server, start
from tests.server.oip import triton
from tests.server.transports import NATIVE, over
from tests.server.wire.test_counts import eventually
from tests.server.wire.wire import batch, connected, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb

pytestmark = over(NATIVE)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
parse: Any = text_string_to_metric_families
STEP, STREAM = "tidegate.v1.Tidegate/Step", "tidegate.v1.Tidegate/StepStream"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take spans."""
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        """The spans of a name."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.name == name
        ]


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector and its endpoint."""
    collector = Collector()
    with ThreadPoolExecutor(2) as threads:
        served = grpc.server(threads)
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(collector, served)
        port = served.add_insecure_port("127.0.0.1:0")
        served.start()
        yield collector, f"http://127.0.0.1:{port}"
        served.stop(None).wait()


def attributes(span: Span) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value")))
        for each in span.attributes
    }


def test_spans_tell_of_calls_and_messages_and_of_what_their_time_went_to(
    small: SmallModel,
) -> None:
    x = observations(1, 9)
    with collecting() as (collector, endpoint):
        flags = {"traces_endpoint": endpoint, "traces_ratio": 1}
        with running_server(small.repository, **flags) as server, connected(server) as stub:
            stub.Open(pb.OpenRequest(model="small", session_id="secret-one"))
            stub.Step(step_request("secret-one", 0, x[0]), metadata=SAMPLED)
            stub.Step(step_request("secret-one", 1, x[1]), metadata=UNSAMPLED)
            opens = [pb.LaneOpen(lane=0, session_id="secret-two", create=True)]
            messages = (batch(t, [0], x, opens=opens) for t in range(3))
            list(stub.StepStream(messages, metadata=SAMPLED))
            with pytest.raises(grpc.RpcError):
                stub.Step(step_request("secret-nobody", 0, x[0]), metadata=SAMPLED)
            assert server.terminate() == 0
    stepped, failed = sorted(
        collector.named(STEP), key=lambda span: attributes(span)["rpc.grpc.status_code"]
    )
    assert (stepped.trace_id.hex(), stepped.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(stepped) == {
        "rpc.system": "grpc",
        "rpc.service": "tidegate.v1.Tidegate",
        "rpc.method": "Step",
        "rpc.grpc.status_code": 0,
        "tidegate.model": "small",
        "tidegate.version": "1",
        "tidegate.rows": 1,
    }
    assert attributes(failed)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    for name in ("queue", "run"):
        (part,) = [each for each in collector.named(name) if each.trace_id == stepped.trace_id]
        assert part.parent_span_id == stepped.span_id
        assert stepped.start_time_unix_nano <= part.start_time_unix_nano
        assert part.start_time_unix_nano <= part.end_time_unix_nano <= stepped.end_time_unix_nano
    streamed = collector.named(STREAM)
    assert len(streamed) == 3 == len({span.trace_id for span in streamed})
    for span in streamed:
        (link,) = span.links
        assert (link.trace_id.hex(), link.span_id.hex()) == (TRACE, PARENT)
    assert len(collector.named("tidegate.v1.Tidegate/Open")) == 1
    assert b"secret" not in b"".join(each.SerializeToString() for each in collector.requests)


def test_spans_of_tritons_clients_have_the_same_parts(small: SmallModel) -> None:
    xs = triton.observations(4)
    with collecting() as (collector, endpoint):
        flags = {"traces_endpoint": endpoint, "traces_ratio": 1}
        with running_server(small.repository, **flags) as server:
            with triton.client(server) as connection:
                triton.step(connection, xs[0], "one", sequence_start=True)
                triton.step(connection, xs[1], "one")
            with triton.raw(server) as stub:
                list(stub.ModelStreamInfer(triton.request("one", x) for x in xs[2:]))
            assert server.terminate() == 0
    service = "inference.GRPCInferenceService"
    for name in ("ModelInfer", "ModelStreamInfer"):
        spans = collector.named(f"{service}/{name}")
        assert len(spans) == 2
        for span in spans:
            for part in ("queue", "run"):
                within = [p for p in collector.named(part) if p.parent_span_id == span.span_id]
                assert [p.trace_id for p in within] == [span.trace_id]


def test_the_metrics_name_a_trace_of_those_that_took_as_long(small: SmallModel) -> None:
    x = observations(1, 2)
    with collecting() as (_, endpoint):
        flags = {"traces_endpoint": endpoint, "traces_ratio": 0}
        with running_server(small.repository, **flags) as server, connected(server) as stub:
            stub.Open(pb.OpenRequest(model="small", session_id="one"))
            stub.Step(step_request("one", 0, x[0]))
            stub.Step(step_request("one", 1, x[1]), metadata=SAMPLED)
            assert eventually(lambda: _open_metrics(server).count(TRACE) >= 2)  # a reply is counted
            families = list(parse(_open_metrics(server)))  # after it has left
            assert "trace_id" not in server.metrics()  # whose format has no place for it
    for name in ("tidegate_reply_seconds", "grpc_server_handling_seconds"):
        (family,) = [each for each in families if each.name == name]
        examples = [each.exemplar for each in family.samples if each.exemplar is not None]
        (example,) = examples
        assert example.labels == {"trace_id": TRACE}
        bounds = [s.labels["le"] for s in family.samples if s.exemplar == example]
        assert 0 < example.value <= float(bounds[0])


def _open_metrics(server: RunningServer) -> str:
    """The page in the format that newer Prometheus asks for."""
    kind = "application/openmetrics-text; version=1.0.0"
    asked = urllib.request.Request(server.metrics_url, headers={"Accept": kind})
    with urllib.request.urlopen(asked, timeout=5) as page:
        text: str = page.read().decode()
    return text


def test_of_calls_that_nobody_decided_on_the_ratio_is_traced(
    small: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = observations(1, 40)
    with collecting() as (collector, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        with running_server(small.repository, traces_ratio=0) as server, connected(server) as stub:
            stub.Open(pb.OpenRequest(model="small", session_id="one"))
            for step in range(40):
                decided = SAMPLED if step % 20 == 7 else None
                stub.Step(step_request("one", step, x[step]), metadata=decided)
            assert server.terminate() == 0
    assert len(collector.named(STEP)) == 2
    named = {each.key: each.value.string_value
             for each in collector.requests[0].resource_spans[0].resource.attributes}  # fmt: skip
    assert named["service.name"] == "mine"


def test_a_collector_that_is_not_there_holds_up_neither_calls_nor_the_end(
    small: SmallModel,
) -> None:
    flags = {"traces_endpoint": "http://127.0.0.1:1", "traces_ratio": 1}
    with running_server(small.repository, **flags) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="one"))
        stub.Step(step_request("one", 0, observations(1, 1)[0]), timeout=30)
        assert server.terminate() == 0
        assert "opentelemetry" in server.log()


MAIN = """
import os, sys
from server.__main__ import main
ours = "opentelemetry.exporter", "server.transport.native.traces"  # redis imports the rest itself
end = os._exit
def last_words(status):
    found = [name for name in ours if name in sys.modules]
    print("imported", found, file=sys.__stderr__, flush=True)
    end(status)
os._exit = last_words
main()
"""


def test_without_an_endpoint_nothing_of_ours_is_imported(small: SmallModel) -> None:
    process, log = start(small.repository, "--store=none", code=MAIN)
    server = await_ready(process, log)
    assert server.terminate() == 0
    assert "imported []" in server.log()
