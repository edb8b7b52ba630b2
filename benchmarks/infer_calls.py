"""The same by the Open Inference Protocol. Apart, since its messages share names with those of
Triton's client, and a process can hold one of the two."""

from __future__ import annotations

from benchmarks.calls import Session, Streamed
from benchmarks.load import WrongAnswer
from benchmarks.models import H64
from inference import grpc_service_pb2 as oip


class InferSession(Session):
    """By the Open Inference Protocol's `ModelInfer`. The first step opens the sequence, and the
    last one ends it: tritonserver has room for so many."""

    method = "/inference.GRPCInferenceService/ModelInfer"
    leaves = False

    def leave(self) -> None:
        """End the sequence."""
        self.leaves = True
        self.go()

    def request(self, step: int, features: bytes) -> bytes:
        """The sequence begins, or goes on."""
        request = oip.ModelInferRequest(model_name=H64.name, raw_input_contents=[features])
        request.inputs.add(name="input", datatype="FP32", shape=[1, H64.inputs])
        request.parameters["sequence_id"].int64_param = self.number
        if step == 0:
            request.parameters["sequence_start"].bool_param = True
        if self.leaves:
            request.parameters["sequence_end"].bool_param = True
        return request.SerializeToString()

    def outputs(self, step: int, packed: bytes) -> bytes:
        """The reply's only tensor."""
        return _only(oip.ModelInferResponse.FromString(packed))


class TritonSession(InferSession):
    """The same on tritonserver, whose model here computes in numpy."""

    tolerance = 1e-4


class TritonStream(Streamed, TritonSession):
    """The same on a stream of the session's own."""

    method = "/inference.GRPCInferenceService/ModelStreamInfer"

    def outputs(self, step: int, packed: bytes) -> bytes:
        """The reply within the stream's."""
        reply = oip.ModelStreamInferResponse.FromString(packed)
        if reply.error_message:
            raise WrongAnswer(f"step {step}: {reply.error_message}")
        return _only(reply.infer_response)


def _only(reply: oip.ModelInferResponse) -> bytes:
    (raw,) = reply.raw_output_contents
    return raw
