"""The sequence parameters of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inference import grpc_service_pb2 as pb
from server.transport.oip.refusals import IdTooLong, Refused, no_id, wrong_type

MAX_ID = 128
Parameters = Mapping[str, pb.InferParameter]


@dataclass(frozen=True)
class Sequence:
    """Which sequence a request steps, and how."""

    session_id: str
    """The string id as it is, an int64 id in decimal digits; "" where there is none."""
    start: bool
    end: bool
    timeout: float | None
    """Seconds until the step must have entered a run."""

    def check(self, model: str) -> None:
        """Refuse a request without an id.

        Raises:
            Refused: as Triton's sequence batcher says it.
        """
        if not self.session_id:
            raise no_id(model)


def read(parameters: Parameters) -> Sequence:
    """Read the parameters; unknown ones are passed over.

    Raises:
        Refused: one has another type than its own.
    """
    _check_priority(parameters)
    return Sequence(
        _id(parameters),
        _flag(parameters, "sequence_start"),
        _flag(parameters, "sequence_end"),
        _timeout(parameters),
    )


def _kind(parameters: Parameters, name: str) -> str | None:
    return parameters[name].WhichOneof("parameter_choice") if name in parameters else None


def _id(parameters: Parameters) -> str:
    if "sequence_id" not in parameters:
        return ""
    value = parameters["sequence_id"]
    kind = value.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return str(value.int64_param) if value.int64_param else ""
    if kind != "string_param":
        raise wrong_type("sequence_id", "int64_param or string_param")
    if len(value.string_param) > MAX_ID:
        raise IdTooLong
    return value.string_param


def _flag(parameters: Parameters, name: str) -> bool:
    if name not in parameters:
        return False
    if _kind(parameters, name) != "bool_param":
        raise wrong_type(name, "bool_param")
    return parameters[name].bool_param


def _timeout(parameters: Parameters) -> float | None:
    if "timeout" not in parameters:
        return None
    if _kind(parameters, "timeout") != "int64_param":
        raise wrong_type("timeout", "int64_param")
    microseconds = parameters["timeout"].int64_param
    return microseconds / 1e6 if microseconds > 0 else None


def _check_priority(parameters: Parameters) -> None:
    """Accepted, and of no effect: steps run oldest first."""
    if "priority" not in parameters:
        return
    kind = _kind(parameters, "priority")
    if kind not in ("int64_param", "uint64_param"):
        raise wrong_type("priority", "int64_param or uint64_param")
    if parameters["priority"].int64_param < 0:
        raise Refused("invalid value for 'priority', expected value >= 0.", "priority")
