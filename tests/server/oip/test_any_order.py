"""Requests of any kind, in any order, sent without a wait: the same as one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient import grpc as triton

from tests.conftest import SmallModel
from tests.harness import RunningServer
from tests.server.oip.triton import (
    TOLERANCE,
    Floats,
    client,
    name,
    observations,
    stream,
    tensor,
)
from training.network import Network
from training.reference import NumpyNetwork

KINDS: dict[str, dict[str, Any]] = {
    "start": {"sequence_start": True},
    "plain": {},
    "typed": {},
    "end": {"sequence_end": True},
    "both": {"sequence_start": True, "sequence_end": True},
}
requests = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([*KINDS, "plain", "plain"])),
    min_size=1,
    max_size=40,
)


class Sequences:
    """What each sequence must answer."""

    def __init__(self, weights: Network) -> None:
        self._lstm = NumpyNetwork(weights)
        self._live: dict[int, Any] = {}

    def answer(self, sequence: int, kind: str, x: Floats) -> Floats | None:
        """The outputs; None: there is no such sequence."""
        if "sequence_start" in KINDS[kind]:
            self._live[sequence] = self._lstm.initial()
        if sequence not in self._live:
            return None
        outputs, self._live[sequence] = self._lstm.run(x[None], self._live[sequence])
        if "sequence_end" in KINDS[kind]:
            del self._live[sequence]
        answered: Floats = outputs[0].astype(np.float32)
        return answered


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests)
def test_requests_sent_without_a_wait_are_answered_in_their_order(
    server: RunningServer, small: SmallModel, sent: list[tuple[int, str]]
) -> None:
    model, ids, xs = Sequences(small.weights), [name() for _ in range(3)], observations(len(sent))
    with client(server) as connection, stream(connection) as replies:
        for (sequence, kind), x in zip(sent, xs, strict=True):
            wanted = [triton.InferRequestedOutput("y")] if kind == "typed" else None
            connection.async_stream_infer(
                "small", [tensor(x)], sequence_id=ids[sequence], outputs=wanted, **KINDS[kind]
            )
        for (sequence, kind), x in zip(sent, xs, strict=True):
            got, expected = replies.get(timeout=20), model.answer(sequence, kind, x)
            if expected is None:
                assert isinstance(got, triton.InferenceServerException), (sequence, kind)
                assert "must specify the START flag" in got.message()
            else:
                assert not isinstance(got, triton.InferenceServerException), got
                np.testing.assert_allclose(got.as_numpy("y")[0], expected, atol=TOLERANCE)
