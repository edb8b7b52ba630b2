"""What a request names: a model, whose version is a text, and a sequence, in its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from inference import grpc_service_pb2 as pb
from server.api.oip.refusals import (
    IdTooLong,
    NoModel,
    Refused,
    negative_version,
    no_id,
    no_version,
    wrong_type,
)
from server.errors import BadModel, UnknownModel, UnknownVersion
from server.names import own
from server.serving.model import ServedModel
from server.serving.registry import Registry

MAX_ID = 128
WHOLE = re.compile(r"-?[0-9]{1,18}")
KNOWN = frozenset(("sequence_id", "sequence_start", "sequence_end", "timeout", "priority"))
Parameters = Mapping[str, pb.InferParameter]


def model(registry: Registry, name: str, version: str) -> ServedModel:
    """A served model version.

    Raises:
        Refused: the version is no number above 0.
        NoModel: it is not served.
        Starting: the server is still loading.
    """
    number = _number(version)
    try:
        if version and not number:  # none of ours, and not "any" either
            registry.resolve(name)
            raise UnknownVersion(name, number)
        return registry.resolve(name, number)
    except (UnknownModel, UnknownVersion, BadModel) as error:
        raise NoModel(name, version, error) from error


def models_of(registry: Registry, name: str, version: str) -> list[ServedModel]:
    """The versions of a model, or one of them, or with no name all models; raises as `model`."""
    if not name:
        return list(registry)
    found = model(registry, name, version)
    return [found] if version else registry.versions(name)


def version_of(request: pb.ModelInferRequest) -> int:
    """The version a request means, to count its failure under; 0 where it names none."""
    version = request.model_version
    return int(version) if WHOLE.fullmatch(version) else 0


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


def sequence(parameters: Parameters) -> Sequence:
    """Read the parameters; unknown ones are passed over.

    Raises:
        Refused: one has another type than its own.
    """
    found = {name: parameters[name] for name in parameters if name in KNOWN}
    if not found:
        return NO_SEQUENCE
    _check_priority(found)
    return Sequence(
        _id(found), _flag(found, "sequence_start"), _flag(found, "sequence_end"), _timeout(found)
    )


NO_SEQUENCE = Sequence("", start=False, end=False, timeout=None)


def _kind(parameters: Parameters, name: str) -> str | None:
    return parameters[name].WhichOneof("parameter_choice")


def _id(parameters: Parameters) -> str:
    if "sequence_id" not in parameters:
        return ""
    value = parameters["sequence_id"]
    kind = value.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return str(value.int64_param) if value.int64_param else ""
    if kind != "string_param":
        raise wrong_type("sequence_id", "int64_param or string_param")
    if len(own(value.string_param)) > MAX_ID:
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


def _number(version: str) -> int:
    if not version:
        return 0
    if not WHOLE.fullmatch(version):
        raise no_version(version)
    if version.startswith("-"):
        raise negative_version(version)
    return int(version)
