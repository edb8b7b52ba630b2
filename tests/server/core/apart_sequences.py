"""Requests of a sequence, in process: whatever becomes of a START, nobody waits for it for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference import grpc_service_pb2 as pb
from server.api.oip import tensors
from server.api.oip.inference import Inference
from server.config import Config
from server.engine.engine import Engine
from server.errors import Internal, ServingError
from server.metrics import Metrics
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tests.server.core.parts import CPU, make_bundle

Told = list[pb.ModelInferResponse | ServingError]


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    """Not started, so that what is submitted waits."""
    engine = Engine(make_bundle(tmp_path), CPU, 4)
    return ServedModel(engine, Config(model_repository=tmp_path), Metrics())


@pytest.fixture
def inbox() -> list[Callable[[], None]]:
    """Completions, which are delivered in the test's own thread."""
    return []


@pytest.fixture
def inference(model: ServedModel, inbox: list[Callable[[], None]]) -> Inference:
    registry = Registry(Metrics())
    registry.add(model)
    registry.ready = True
    return Inference(registry, lambda deliver: lambda done: inbox.append(lambda: deliver(done)))


def request(**parameters: bool) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(
        model_name="small",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 5])],
        raw_input_contents=[np.zeros(5, "<f4").tobytes()],
    )
    message.parameters["sequence_id"].string_param = "one"
    for name, value in parameters.items():
        message.parameters[name].bool_param = value
    return message


def broken(*_: Any) -> None:
    raise MemoryError


def test_a_start_that_could_not_be_queued_is_not_waited_for(
    inference: Inference, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once only our own errors were thought of: the START stayed, and all behind it waited."""
    told: Told = []
    with monkeypatch.context() as failing:
        failing.setattr(ServedModel, "submit", broken)
        with pytest.raises(MemoryError):
            inference.start(
                request(sequence_start=True), None, lambda outcome, _: told.append(outcome)
            )
    assert "one" not in model.directory
    submitted: list[Submission] = []
    monkeypatch.setattr(ServedModel, "submit", lambda _, each: submitted.append(each))
    inference.start(request(sequence_start=True), None, lambda outcome, _: told.append(outcome))
    assert len(submitted) == 1  # it does not wait behind the one before
    assert not told


def test_a_reply_that_cannot_be_made_is_an_error_and_the_sequence_goes_on(
    inference: Inference,
    inbox: list[Callable[[], None]],
    model: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: Told = []
    model.start()
    monkeypatch.setattr(tensors, "reply", broken)
    inference.start(request(sequence_start=True), None, lambda outcome, _: told.append(outcome))
    model.stop()
    for deliver in inbox:
        deliver()
    assert [type(each) for each in told] == [Internal]
    assert model.get("one").steps == 1
