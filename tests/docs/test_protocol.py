"""The worked example of docs/protocol.md is what the code sends, and what a server answers."""

from __future__ import annotations

import re

import numpy as np

from tests.conftest import SmallModel
from tests.harness import ROOT, running_server
from tests.server.wire.wire import connected
from tidegate.v1 import tidegate_pb2 as pb

PAGE = (ROOT / "docs/protocol.md").read_text()


def example(name: str) -> bytes:
    """The bytes of a block, without its comments."""
    found = re.search(rf"```hex {name}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return bytes.fromhex("".join(line.split("#")[0] for line in found[1].splitlines()))


def test_the_message_is_what_its_words_say() -> None:
    features = np.array([[0.5, -1, 2, 0, 1], [1, 0, 0.25, -2, 0], [1, 1, 1, 1, 1]], "<f4")
    message = pb.StepBatch(
        id=7,
        model="small",
        opens=[
            pb.LaneOpen(lane=0, session_id="a", create=True),
            pb.LaneOpen(lane=1, session_id="b", create=True),
        ],
        lanes=np.array([0, 1], "<u4").tobytes(),
        first_steps=np.array([0, 5], "<u8").tobytes(),
        lengths=np.array([2, 1], "<u4").tobytes(),
        features=features.tobytes(),
        timeout_us=2_000_000,
    )
    assert message.SerializeToString(deterministic=True) == example("StepBatch")


def test_a_server_answers_as_the_page_says(small: SmallModel) -> None:
    with running_server(small.repository, store="none") as server, connected(server) as stub:
        (reply,) = stub.StepStream(iter([pb.StepBatch.FromString(example("StepBatch"))]))
    for opened in reply.opened:
        assert opened.life
        opened.ClearField("life")  # a random number, which the page leaves out
    told = pb.StepBatchReply.FromString(example("StepBatchReply"))
    outputs, wanted = (np.frombuffer(each.outputs, "<f4") for each in (reply, told))
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)
    reply.outputs = told.outputs
    assert reply == told
    assert told.SerializeToString(deterministic=True) == example("StepBatchReply")


def test_every_reason_has_its_advice() -> None:
    reasons = {name.removeprefix("REASON_") for name in pb.Reason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    told = set(re.findall(r"`([A-Z_]{4,})`", PAGE.split("## Errors")[1].split("## Flow")[0]))
    assert reasons <= told
