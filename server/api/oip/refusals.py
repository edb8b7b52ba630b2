"""The refusals that Triton has a text for, with our finer reason beside it where there is one."""

from __future__ import annotations

from server.errors import BadInput, ServingError, SessionClosed
from server.names import own


class Refused(BadInput):
    """What the request says is malformed; `field` names the place."""

    def __init__(self, message: str, field: str = "parameters") -> None:
        super().__init__(message, field=field)


class IdTooLong(Refused):
    """Triton's clients know this one by its code."""

    code = "UNIMPLEMENTED"

    def __init__(self) -> None:
        super().__init__("string correlation ID cannot be longer than 128 characters")


class NoModel(ServingError):
    """The request names a model or version that is not served."""

    code = "NOT_FOUND"

    def __init__(self, name: str, version: str, why: ServingError) -> None:
        unknown = why.reason == "UNKNOWN_MODEL" or not version
        which = f"'{name[:300]}'" if unknown else f"'{name[:300]}' version {version}"
        super().__init__(f"Request for unknown model: {which} is not found")
        self.reason = why.reason  # type: ignore[misc]  # as the look-up has it


class NoStart(ServingError):
    """A request without START for a sequence that is not live; `why` tells what became of it."""

    code = "INVALID_ARGUMENT"

    def __init__(self, model: str, session_id: str, why: ServingError) -> None:
        super().__init__(
            f"inference request for sequence {own(session_id)} to model '{model}' must specify the "
            "START flag on the first request of the sequence"
        )
        self.reason = why.reason  # type: ignore[misc]  # never started, expired or closed
        self.ended_at = why.ended_at


def wrong_type(name: str, expected: str) -> Refused:
    """A parameter of another type."""
    return Refused(f"invalid value type for '{name}' parameter, expected {expected}.", name)


def no_version(version: str) -> Refused:
    """A version that is no number; the detail in brackets is what Triton's C++ says."""
    return Refused(
        f"failed to get model version from specified version string '{version[:300]}' "
        "(details: stol), version should be an integral value > 0",
        "model_version",
    )


def negative_version(version: str) -> Refused:
    """Versions count from 1."""
    text = f"invalid model version specified '{version}' , version should be an integral value > 0"
    return Refused(text, "model_version")


def no_id(model: str) -> Refused:
    """Sequences have a name."""
    text = "must specify a non-zero or non-empty correlation ID"
    return Refused(f"inference request to model '{model}' {text}", "sequence_id")


def batched(model: str) -> Refused:
    """A request is a step of one sequence."""
    text = "must specify batch-size 1 due to requirements of sequence batcher"
    return Refused(f"inference request to model '{model}' {text}", "inputs")


def ending(model: str, session_id: str, now: float) -> NoStart:
    """A request after the one that ended its sequence."""
    return NoStart(model, session_id, SessionClosed(model, session_id, now))
