"""Which requests go the shortest way."""

from __future__ import annotations

import pytest

from inference import grpc_service_pb2 as pb
from server.api.oip.tensors import asks_for_all

Named = pb.ModelInferRequest.InferRequestedOutputTensor
Told = pb.ModelInferResponse.InferOutputTensor
ALL = pb.ModelInferResponse(outputs=[Told(name="speed"), Told(name="mood")])


@pytest.mark.parametrize(
    ("names", "all_of_them"),
    [
        ([], True),
        (["speed", "mood"], True),
        (["mood", "speed"], True),
        (["mood"], False),
        (["mood", "mood"], False),
        (["mood", "speed", "mood"], False),
        (["mood", "other"], False),
    ],
)
def test_whoever_names_every_output_asks_for_what_those_get_who_name_none(
    names: list[str], all_of_them: bool
) -> None:
    request = pb.ModelInferRequest(outputs=[Named(name=name) for name in names])
    assert asks_for_all(request, ALL) is all_of_them


def test_whoever_wants_classes_asks_for_something_else() -> None:
    request = pb.ModelInferRequest(outputs=[Named(name="mood"), Named(name="speed")])
    request.outputs[0].parameters["classification"].int64_param = 2
    assert not asks_for_all(request, ALL)
