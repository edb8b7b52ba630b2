"""Requests' tensors as features, and outputs as replies' tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference import grpc_service_pb2 as pb
from server.api.oip.refusals import Refused, batched
from server.bundle.manifest import Manifest, Output
from server.errors import ServingError
from server.sessions import validation

INPUT, FP32 = "input", "FP32"
MOST = 1024  # of what is told one by one in an error's text, or asked for in a request
CONTENTS = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}
Floats = NDArray[np.float32]


def read(request: pb.ModelInferRequest, manifest: Manifest) -> Floats:
    """The features of the request's one step, [1, I].

    Raises:
        Refused: inputs, shapes, types or contents are not the model's.
        BadInput: a value is not finite, nor NaN where that may be missing.
    """
    tensor = _only(request, manifest)
    _check(tensor, manifest)
    features = _values(request, tensor, manifest).reshape(1, manifest.inputs_width)
    if problem := validation.problem(features, manifest):
        raise problem
    return features


def raw(request: pb.ModelInferRequest, manifest: Manifest) -> bytes | None:
    """The features of the request's one step as they came, f32 [I], if they came as raw bytes; they
    may be unfit. None where it takes `read` to tell what they are.

    Raises:
        Refused: as `read`.
    """
    tensor, contents = _only(request, manifest), request.raw_input_contents
    if len(contents) != 1 or tensor.HasField("contents"):
        return None
    _check(tensor, manifest)
    _check_size(len(contents[0]), manifest)
    return contents[0]


def check_outputs(request: pb.ModelInferRequest, manifest: Manifest) -> None:
    """Refuse outputs that the model does not have, and a count of classes that is none.

    Raises:
        Refused: naming the output, or the parameter.
    """
    known = {output.name for output in manifest.outputs}
    if len(request.outputs) > MOST:
        text = f"expected at most {MOST} requested outputs but got {len(request.outputs)}"
        raise Refused(f"{text} for model '{manifest.name}'", "outputs")
    for wanted in request.outputs:
        if wanted.name not in known:
            text = f"unexpected inference output '{wanted.name}' for model '{manifest.name}'"
            raise Refused(text, "outputs")
        _classes(wanted)


def reply(
    request: pb.ModelInferRequest, outputs: Floats, manifest: Manifest
) -> pb.ModelInferResponse:
    """The reply with the outputs asked for; `outputs` are a step's, [O]."""
    if not request.outputs:
        return reply_all(request.id, _packed(outputs), described(manifest), manifest)
    response = pb.ModelInferResponse(
        model_name=manifest.name, model_version=str(manifest.version), id=request.id
    )
    classes = {wanted.name: _classes(wanted) for wanted in request.outputs}
    start = 0
    for output in manifest.outputs:
        values = outputs[start : start + output.size]
        start += output.size
        if count := classes.get(output.name, 0):
            _add_classes(response, output, values, count)
        elif output.name in classes:
            _describe(response, output)
            response.raw_output_contents.append(_packed(values))
    return response


def described(manifest: Manifest) -> pb.ModelInferResponse:
    """A reply with all outputs, but for their values."""
    response = pb.ModelInferResponse(model_name=manifest.name, model_version=str(manifest.version))
    for output in manifest.outputs:
        _describe(response, output)
    return response


def asks_for_all(request: pb.ModelInferRequest, all_described: pb.ModelInferResponse) -> bool:
    """Whether the outputs that it names, if any, are all that there are, as values: as most of
    Triton's clients name them."""
    if not request.outputs:
        return True
    names = sorted(output.name for output in all_described.outputs)
    plain = not any(wanted.parameters for wanted in request.outputs)
    return plain and sorted(wanted.name for wanted in request.outputs) == names


def reply_all(
    request_id: str, packed: bytes, all_described: pb.ModelInferResponse, manifest: Manifest
) -> pb.ModelInferResponse:
    """The reply with all outputs; `packed` are a step's, as little-endian f32."""
    response = pb.ModelInferResponse()
    response.CopyFrom(all_described)
    response.id = request_id
    start = 0
    for output in manifest.outputs:
        response.raw_output_contents.append(packed[start : start + 4 * output.size])
        start += 4 * output.size
    return response


def streamed(
    request_id: str, outcome: pb.ModelInferResponse | ServingError
) -> pb.ModelStreamInferResponse:
    """A request's outcome as a stream tells it."""
    if isinstance(outcome, ServingError):
        return pb.ModelStreamInferResponse(
            error_message=str(outcome), infer_response=pb.ModelInferResponse(id=request_id)
        )
    return pb.ModelStreamInferResponse(infer_response=outcome)


def _classes(wanted: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    """How many of the likeliest classes are asked for; 0: the values as they are."""
    if "classification" not in wanted.parameters:
        return 0
    count = wanted.parameters["classification"]
    if count.WhichOneof("parameter_choice") != "int64_param":
        text = "invalid value type for 'classification' parameter, expected int64_param"
        raise Refused(text, "classification")
    if count.int64_param <= 0:
        text = "invalid value for 'classification' parameter, expected >= 0"
        raise Refused(text, "classification")
    return count.int64_param


def _only(
    request: pb.ModelInferRequest, manifest: Manifest
) -> pb.ModelInferRequest.InferInputTensor:
    for tensor in request.inputs[:MOST]:
        if tensor.name != INPUT:
            text = f"unexpected inference input '{tensor.name}' for model '{manifest.name}'"
            raise Refused(text, "inputs")
    if len(request.inputs) != 1:
        text = f"expected 1 inputs but got {len(request.inputs)} inputs for model"
        raise Refused(f"{text} '{manifest.name}'", "inputs")
    return request.inputs[0]


def _check(tensor: pb.ModelInferRequest.InferInputTensor, manifest: Manifest) -> None:
    if tensor.datatype != FP32:
        raise Refused(
            f"inference input '{INPUT}' data-type is '{tensor.datatype}', but model "
            f"'{manifest.name}' expects '{FP32}'",
            "inputs",
        )
    shape, width = list(tensor.shape[:MOST]), manifest.inputs_width
    if len(shape) != 2 or shape[1] != width or shape[0] < 1:
        listed = ",".join(map(str, shape))
        raise Refused(
            f"unexpected shape for input '{INPUT}' for model '{manifest.name}'. "
            f"Expected [-1,{width}], got [{listed}]",
            "inputs",
        )
    if shape[0] > 1:
        raise batched(manifest.name)


def _values(
    request: pb.ModelInferRequest,
    tensor: pb.ModelInferRequest.InferInputTensor,
    manifest: Manifest,
) -> Floats:
    if tensor.HasField("contents"):
        return _typed(request, tensor, manifest)
    if not request.raw_input_contents:
        text = f"unable to find data for input tensor '{INPUT}' for model '{manifest.name}'"
        raise Refused(f"{text} in request.", "inputs")
    if len(request.raw_input_contents) != 1:
        text = f"expected 1 raw_input_contents but got {len(request.raw_input_contents)}"
        raise Refused(f"{text} for model '{manifest.name}'", "raw_input_contents")
    raw = request.raw_input_contents[0]
    _check_size(len(raw), manifest)
    return np.frombuffer(raw, dtype="<f4")


def _typed(
    request: pb.ModelInferRequest,
    tensor: pb.ModelInferRequest.InferInputTensor,
    manifest: Manifest,
) -> Floats:
    if request.raw_input_contents:
        raise Refused(
            "contents field must not be specified when using raw_input_contents for "
            f"'{INPUT}' for model '{manifest.name}'",
            "inputs",
        )
    for field, _ in tensor.contents.ListFields():
        if field.name != "fp32_contents":
            raise Refused(
                f"unexpected explicit tensor data for input tensor '{INPUT}' for model "
                f"'{manifest.name}' of type '{CONTENTS[field.name]}', expected datatype '{FP32}'",
                "inputs",
            )
    typed = tensor.contents.fp32_contents
    _check_size(4 * len(typed), manifest)
    return np.fromiter(typed, dtype=np.float32, count=len(typed))


def _check_size(size: int, manifest: Manifest) -> None:
    expected = 4 * manifest.inputs_width
    if size != expected:
        raise Refused(
            f"input byte size mismatch for input '{INPUT}' for model '{manifest.name}'. "
            f"Expected {expected}, got {size}",
            "inputs",
        )


def _describe(response: pb.ModelInferResponse, output: Output) -> None:
    response.outputs.add(name=output.name, datatype=FP32, shape=[1, output.size])


def _packed(values: Floats) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _add_classes(
    response: pb.ModelInferResponse, output: Output, values: Floats, count: int
) -> None:
    """The likeliest first, each as VALUE:INDEX or VALUE:INDEX:LABEL after its length."""
    best = np.argsort(-values, kind="stable")[:count].tolist()
    response.outputs.add(name=output.name, datatype="BYTES", shape=[1, len(best)])
    packed = b""
    for index in best:
        label = f":{output.labels[index]}" if output.labels else ""
        text = f"{values[index]:.6f}:{index}{label}".encode()
        packed += len(text).to_bytes(4, "little") + text
    response.raw_output_contents.append(packed)
