"""The server's settings: one frozen dataclass, from which flags and environment variables derive.

A leaf. A value comes from its flag, else from `TIDEGATE_<FIELD>`, else from the default beside the
field. A bad value stops the start with a message naming the field.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A setting has a bad value; the message names the field."""


def setting(default: Any, help_text: str, check: Callable[[Any], bool], must: str) -> Any:
    """A field with its default, what it does, and what its value must be."""
    return field(default=default, metadata={"help": help_text, "check": check, "must": must})


def _positive(value: float) -> bool:
    return value > 0


def _duration(seconds: float) -> bool:
    """Ten years at most: times stay within what clocks and timestamps can say."""
    return 0 < seconds <= 10 * 365 * 86_400


def _port(value: int) -> bool:
    return 0 <= value <= 65535


LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Config:
    """Everything that can be set, checked on construction.

    Raises:
        ConfigError: a value is out of its range; the message names the field.
    """

    model_repository: Path = setting(
        Path("models"), "folder of bundles, NAME/VERSION/", lambda p: p.is_dir(), "be a folder"
    )
    host: str = setting("127.0.0.1", "address to listen on", bool, "not be empty")
    port: int = setting(50051, "gRPC port; 0 takes a free one", _port, "be 0 to 65535")
    metrics_port: int = setting(9095, "metrics port; 0 takes a free one", _port, "be 0 to 65535")
    device: str = setting(
        "auto",
        "auto (CUDA when there is one), cpu or cuda",
        lambda d: d in ("auto", "cpu", "cuda"),
        "be auto, cpu or cuda",
    )
    threads: int = setting(1, "onnxruntime's threads within a run", _positive, "be at least 1")
    max_sessions: int = setting(10_000, "live sessions a model", _positive, "be at least 1")
    session_ttl: float = setting(
        3600.0,
        "idle seconds after which a session expires",
        _duration,
        "be above 0 and at most ten years",
    )
    remembered_steps: int = setting(
        64, "steps a session whose outputs are kept for retries", _positive, "be at least 1"
    )
    max_forecast_steps: int = setting(
        1000, "steps one Forecast may look ahead", _positive, "be at least 1"
    )
    max_queued_steps: int = setting(65_536, "steps waiting, a model", _positive, "be at least 1")
    max_batch: int = setting(1024, "rows in one run, at most", _positive, "be at least 1")
    drift_window: float = setting(
        3600.0,
        "seconds of steps whose features are compared with training; 0 compares none",
        lambda s: s == 0 or _duration(s),
        "be 0 to ten years",
    )
    max_message_bytes: int = setting(
        16 << 20, "largest gRPC message accepted", lambda n: n >= 1024, "be at least 1024"
    )
    max_inflight_messages: int = setting(
        64, "unanswered messages a stream before reading pauses", _positive, "be at least 1"
    )
    drain_seconds: float = setting(
        20.0, "time to finish at shutdown", _duration, "be above 0 and at most ten years"
    )
    log_level: str = setting(
        "info", "debug/info/warning/error", lambda v: v in LEVELS, f"be one of {LEVELS}"
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not each.metadata["check"](value):
                raise ConfigError(f"{each.name} must {each.metadata['must']}, not {value!s}")


def _variable(each: Field[Any]) -> str:
    return f"TIDEGATE_{each.name.upper()}"


def _convert(each: Field[Any], text: str) -> Any:
    kind: type[Any] = type(each.default)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{each.name} must be {kind.__name__}, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate-server",
        description="Serve recurrent models that keep every session's state.",
    )
    for each in fields(Config):
        flag = "--" + each.name.replace("_", "-")
        text = f"{each.metadata['help']} (default {each.default}; {_variable(each)})"
        parser.add_argument(flag, help=text.replace("%", "%%"), metavar="VALUE")
    return parser


def from_arguments(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Config:
    """Read the settings from flags, then the environment, then the defaults.

    Raises:
        ConfigError: a value has the wrong type or range.
    """
    environment = os.environ if environment is None else environment
    given = vars(_parser().parse_args(arguments))
    values: dict[str, Any] = {}
    for each in fields(Config):
        text = given[each.name]
        if text is None:
            text = environment.get(_variable(each))
        if text is not None:
            values[each.name] = _convert(each, text)
    return Config(**values)
