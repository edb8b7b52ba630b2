"""What the server tells Triton's clients of itself and its models."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient import grpc as triton

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server, small_model
from tests.server.oip.triton import WIDTH, client, name, observations, play, step


def test_the_server_is_live_ready_and_speaks_sequences(server: RunningServer) -> None:
    with client(server) as connection:
        assert connection.is_server_live()
        assert connection.is_server_ready()
        about = connection.get_server_metadata()
    assert about.name == "tidegate"
    assert {"sequence", "sequence(string_id)"} <= set(about.extensions)


def test_health_and_reflection_know_the_service(server: RunningServer) -> None:
    service = "inference.GRPCInferenceService"
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2.HealthCheckRequest(service=service)
        health = health_pb2_grpc.HealthStub(channel).Check(check)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (listed,) = stub.ServerReflectionInfo(iter([asked]))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert service in [each.name for each in listed.list_services_response.service]


def test_a_model_is_ready_where_it_is_served(server: RunningServer) -> None:
    with client(server) as connection:
        known = [("small", ""), ("small", "1")]
        assert all(connection.is_model_ready(*each) for each in known)
        unknown = [("small", "2"), ("other", ""), ("small", "one")]
        assert not any(connection.is_model_ready(*each) for each in unknown)


def test_a_models_configuration_tells_that_it_is_stateful(server: RunningServer) -> None:
    with client(server) as connection:
        config = connection.get_model_config("small").config
        about = connection.get_model_metadata("small", "1")
    assert (config.name, config.max_batch_size) == ("small", 1)
    assert config.HasField("sequence_batching")
    assert config.sequence_batching.max_sequence_idle_microseconds == 3_600_000_000
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("input", 11, [WIDTH])]
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [("y", 11, [3])]
    assert list(about.versions) == ["1"]
    assert [(t.name, t.datatype, list(t.shape)) for t in about.outputs] == [("y", "FP32", [-1, 3])]


def test_descriptions_of_what_is_not_served_are_refused(server: RunningServer) -> None:
    with client(server) as connection:
        for call in (
            connection.get_model_metadata,
            connection.get_model_config,
            connection.get_inference_statistics,
        ):
            with pytest.raises(triton.InferenceServerException) as caught:
                call("other")
            assert caught.value.status() == "StatusCode.NOT_FOUND"
            assert caught.value.message() == "Request for unknown model: 'other' is not found"


def test_statistics_count_what_was_done(small: SmallModel) -> None:
    """One step is refused before it is queued, one waits until it is too late."""
    sequence = name()
    with running_server(small.repository) as server, client(server) as connection:
        before = connection.get_inference_statistics("small").model_stats[0]
        assert (before.inference_count, before.execution_count) == (0, 0)
        play(connection, observations(9), sequence)
        for x, timeout in ((np.full(WIDTH, np.nan, np.float32), None), (observations(1)[0], 1)):
            with pytest.raises(triton.InferenceServerException):
                step(connection, x, name(), sequence_start=True, timeout=timeout)
        (after,) = connection.get_inference_statistics().model_stats
    assert (after.name, after.version) == ("small", "1")
    assert (after.inference_count, after.execution_count) == (9, 9)
    stats = after.inference_stats
    assert (stats.success.count, stats.fail.count, stats.queue.count) == (9, 2, 10)
    runs = [stats.compute_input.count, stats.compute_infer.count, stats.compute_output.count]
    assert runs == [9, 9, 9]
    assert 0 < stats.compute_infer.ns < stats.success.ns
    assert 0 < stats.queue.ns < stats.success.ns


def test_the_index_lists_what_is_served_and_why_the_rest_is_not(tmp_path: Path) -> None:
    small_model(tmp_path)
    small_model(tmp_path, version=2)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    with running_server(tmp_path) as server, client(server) as connection:
        found = connection.get_model_repository_index().models
        assert [(m.name, m.version, m.state) for m in found] == [
            ("broken", "1", "UNAVAILABLE"), ("small", "1", "READY"), ("small", "2", "READY"),
        ]  # fmt: skip
        assert "model.json" in found[0].reason
        assert list(connection.get_model_metadata("small").versions) == ["1", "2"]
        assert not connection.is_model_ready("broken")
