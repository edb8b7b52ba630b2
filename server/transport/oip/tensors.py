"""Requests' tensors as features, and outputs as replies' tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference import grpc_service_pb2 as pb
from server.bundle.manifest import Manifest, Output
from server.sessions import inputs
from server.transport.oip.refusals import Refused, batched, wrong_type

INPUT, FP32 = "input", "FP32"
Floats = NDArray[np.float32]


def read(request: pb.ModelInferRequest, manifest: Manifest) -> Floats:
    """The features of the request's one step, [1, I].

    Raises:
        Refused: inputs, shapes, types or contents are not the model's.
        BadInput: a value is not finite.
    """
    tensor = _only(request, manifest)
    _check(tensor, manifest)
    values = _values(request, tensor, manifest)
    features = inputs.shape(values, 1, manifest)
    if problem := inputs.not_finite(features, manifest):
        raise problem
    return features


def check_outputs(request: pb.ModelInferRequest, manifest: Manifest) -> None:
    """Refuse outputs that the model does not have, and classes of what has no labels.

    Raises:
        Refused: naming the output.
    """
    known = {output.name: output for output in manifest.outputs}
    for wanted in request.outputs:
        if wanted.name not in known:
            text = f"unexpected inference output '{wanted.name}' for model '{manifest.name}'"
            raise Refused(text, "outputs")
        if "classification" in wanted.parameters:
            parameter = wanted.parameters["classification"]
            if parameter.WhichOneof("parameter_choice") != "int64_param":
                raise wrong_type("classification", "int64_param")


def reply(
    request: pb.ModelInferRequest, outputs: Floats, manifest: Manifest
) -> pb.ModelInferResponse:
    """The reply with the outputs asked for; `outputs` are a step's, [O]."""
    response = pb.ModelInferResponse(
        model_name=manifest.name, model_version=str(manifest.version), id=request.id
    )
    wanted = {each.name: each for each in request.outputs}
    start = 0
    for output in manifest.outputs:
        values = outputs[start : start + output.size]
        start += output.size
        if not wanted:
            _add(response, output, values)
        elif output.name in wanted:
            count = wanted[output.name].parameters["classification"].int64_param
            (_add_classes if count > 0 else _add)(response, output, values, count)
    return response


def _only(
    request: pb.ModelInferRequest, manifest: Manifest
) -> pb.ModelInferRequest.InferInputTensor:
    for tensor in request.inputs:
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
    shape, width = list(tensor.shape), manifest.inputs_width
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
    if not request.raw_input_contents:
        typed = tensor.contents.fp32_contents
        _check_size(4 * len(typed), manifest)
        return np.fromiter(typed, dtype=np.float32, count=len(typed))
    if tensor.HasField("contents"):
        raise Refused(
            "contents field must not be specified when using raw_input_contents for "
            f"'{INPUT}' for model '{manifest.name}'",
            "inputs",
        )
    if len(request.raw_input_contents) != 1:
        text = f"expected 1 raw_input_contents but got {len(request.raw_input_contents)}"
        raise Refused(f"{text} for model '{manifest.name}'", "raw_input_contents")
    raw = request.raw_input_contents[0]
    _check_size(len(raw), manifest)
    return np.frombuffer(raw, dtype="<f4")


def _check_size(size: int, manifest: Manifest) -> None:
    expected = 4 * manifest.inputs_width
    if size != expected:
        raise Refused(
            f"input byte size mismatch for input '{INPUT}' for model '{manifest.name}'. "
            f"Expected {expected}, got {size}",
            "inputs",
        )


def _add(response: pb.ModelInferResponse, output: Output, values: Floats, count: int = 0) -> None:
    response.outputs.add(name=output.name, datatype=FP32, shape=[1, output.size])
    response.raw_output_contents.append(values.astype("<f4", copy=False).tobytes())


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
