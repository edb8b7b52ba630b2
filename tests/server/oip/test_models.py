"""Models of several versions and of several outputs, over Triton's clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton

from tests.harness import RunningServer, running_server
from tests.server.oip.triton import TOLERANCE, Floats, client, expected, name, raw, refusal, request
from training.bundle import random_bundle, write_bundle
from training.network import Network, random_network

OLD = random_network(5, 8, 1, 3, seed=1, softmax=False)
# Version 2 sees another number of features than version 1: each request must fit its own.
NEW = random_network(4, 8, 1, 3, seed=2, softmax=False)
PARTED = random_network(5, 8, 1, 5, seed=3, softmax=False)
LABELS = ["calm", "brisk", "wild"]


@pytest.fixture(scope="module")
def several(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of `small` in two versions and of `parted`, whose outputs are two groups."""
    repository = tmp_path_factory.mktemp("several")
    random_bundle(repository / "small" / "1", OLD)
    random_bundle(repository / "small" / "2", NEW)
    _write_parted(repository / "parted" / "1")
    with running_server(repository) as running:
        yield running


def _write_parted(folder: Path) -> None:
    features = zip(PARTED.mean, PARTED.std, strict=True)
    write_bundle(
        folder,
        PARTED,
        features=[
            {"name": f"x{k}", "unit": "", "mean": float(mean), "std": float(std)}
            for k, (mean, std) in enumerate(features)
        ],
        outputs=[
            {"name": "speed", "size": 2, "kind": "value", "unit": "m/s"},
            {"name": "mood", "size": 3, "kind": "probability", "labels": LABELS},
        ],
    )


def observations(weights: Network, steps: int) -> Floats:
    return np.random.default_rng(5).normal(0, 2, (steps, weights.inputs)).astype(np.float32)


def step(connection: Any, model: str, x: Floats, sequence: str, **more: Any) -> Any:
    given = triton.InferInput("input", [1, len(x)], "FP32")
    given.set_data_from_numpy(x.reshape(1, -1))
    return connection.infer(model, [given], sequence_id=sequence, **more)


def test_a_sequence_stays_on_its_version_and_a_new_one_takes_the_newest(
    several: RunningServer,
) -> None:
    old, new, sequence = observations(OLD, 3), observations(NEW, 1), name()
    with client(several) as connection:
        replies = [
            step(connection, "small", old[0], sequence, model_version="1", sequence_start=True),
            step(connection, "small", old[1], sequence),
            step(connection, "small", old[2], sequence, sequence_end=True),
        ]
        assert [each.get_response().model_version for each in replies] == ["1", "1", "1"]
        outputs = [each.as_numpy("y")[0] for each in replies]
        np.testing.assert_allclose(outputs, expected(OLD, old), rtol=0, atol=TOLERANCE)
        again = step(connection, "small", new[0], sequence, sequence_start=True)
    assert again.get_response().model_version == "2"
    np.testing.assert_allclose(again.as_numpy("y"), expected(NEW, new), rtol=0, atol=TOLERANCE)


def test_the_same_id_names_another_sequence_on_another_version(several: RunningServer) -> None:
    old, new, sequence = observations(OLD, 2), observations(NEW, 2), name()
    with client(several) as connection:
        outputs: dict[str, list[Floats]] = {"1": [], "2": []}
        for k in range(2):
            for version, xs in (("1", old), ("2", new)):
                reply = step(connection, "small", xs[k], sequence, model_version=version,
                             sequence_start=k == 0)  # fmt: skip
                outputs[version].append(reply.as_numpy("y")[0])
    np.testing.assert_allclose(outputs["1"], expected(OLD, old), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(outputs["2"], expected(NEW, new), rtol=0, atol=TOLERANCE)


def test_why_a_sequence_is_over_is_known_to_the_version_that_held_it(
    several: RunningServer,
) -> None:
    x, sequence = observations(OLD, 1)[0], name()
    with client(several) as connection, raw(several) as stub:
        step(connection, "small", x, sequence, model_version="1", sequence_start=True,
             sequence_end=True)  # fmt: skip
        assert refusal(stub, request(sequence, x)).reason == "CLOSED"


def test_the_outputs_asked_for_come_back_and_no_others(several: RunningServer) -> None:
    xs = observations(PARTED, 3)
    wanted = expected(PARTED, xs)
    mood, sequence = [triton.InferRequestedOutput("mood")], name()
    with client(several) as connection:
        every = step(connection, "parted", xs[0], sequence, sequence_start=True)
        one = step(connection, "parted", xs[1], sequence, outputs=mood)
        both = step(connection, "parted", xs[2], sequence,
                    outputs=[*mood, triton.InferRequestedOutput("speed")])  # fmt: skip
    for reply, row in ((every, wanted[0]), (both, wanted[2])):
        assert {each.name for each in reply.get_response().outputs} == {"speed", "mood"}
        np.testing.assert_allclose(reply.as_numpy("speed")[0], row[:2], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(reply.as_numpy("mood")[0], row[2:], rtol=0, atol=TOLERANCE)
    assert [each.name for each in one.get_response().outputs] == ["mood"]
    np.testing.assert_allclose(one.as_numpy("mood")[0], wanted[1][2:], rtol=0, atol=TOLERANCE)


def test_classes_come_with_their_labels_the_likeliest_first(several: RunningServer) -> None:
    xs = observations(PARTED, 1)
    values = expected(PARTED, xs)[0, 2:]
    with client(several) as connection:
        reply = step(connection, "parted", xs[0], name(), sequence_start=True, sequence_end=True,
                     outputs=[triton.InferRequestedOutput("mood", class_count=9)])  # fmt: skip
    told = [each.decode().split(":") for each in reply.as_numpy("mood")[0]]
    best = np.argsort(-values).tolist()
    assert [(int(index), label) for _, index, label in told] == [(k, LABELS[k]) for k in best]
    np.testing.assert_allclose([float(t[0]) for t in told], values[best], rtol=0, atol=TOLERANCE)


def test_metadata_and_configuration_name_every_output(several: RunningServer) -> None:
    with client(several) as connection:
        about = connection.get_model_metadata("parted")
        config = connection.get_model_config("parted").config
        index = connection.get_model_repository_index().models
    assert [(t.name, list(t.shape)) for t in about.outputs] == [
        ("speed", [-1, 2]), ("mood", [-1, 3]),
    ]  # fmt: skip
    assert [(t.name, list(t.dims)) for t in config.output] == [("speed", [2]), ("mood", [3])]
    assert [(m.name, m.version) for m in index] == [("parted", "1"), ("small", "1"), ("small", "2")]
