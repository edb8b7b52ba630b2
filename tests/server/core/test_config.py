"""Settings: flags over environment over defaults, each checked, each named when it is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from server.config import Config, ConfigError, from_arguments

GOOD: dict[str, str] = {
    "host": "0.0.0.0",
    "port": "1234",
    "metrics_port": "0",
    "device": "cpu",
    "threads": "2",
    "max_sessions": "5",
    "session_ttl": "1.5",
    "remembered_steps": "7",
    "max_forecast_steps": "7",
    "max_queued_steps": "9",
    "max_batch": "3",
    "drift_window": "0.0",
    "max_message_bytes": "4096",
    "max_inflight_messages": "2",
    "drain_seconds": "0.5",
    "log_level": "debug",
}
BAD: dict[str, str] = {
    "model_repository": "/nowhere/at/all",
    "host": "",
    "port": "65536",
    "metrics_port": "-1",
    "device": "gpu",
    "threads": "0",
    "max_sessions": "0",
    "session_ttl": "0",
    "remembered_steps": "0",
    "max_forecast_steps": "0",
    "max_queued_steps": "-5",
    "max_batch": "0",
    "drift_window": "-1",
    "max_message_bytes": "10",
    "max_inflight_messages": "0",
    "drain_seconds": "-1",
    "log_level": "loud",
}


def read(tmp_path: Path, flags: list[str], environment: dict[str, str]) -> Config:
    return from_arguments(["--model-repository", str(tmp_path), *flags], environment)


def value(config: Config, name: str) -> Any:
    return str(getattr(config, name))


def test_the_cases_cover_every_field() -> None:
    names = {each.name for each in dataclasses.fields(Config)}
    assert set(BAD) == names
    assert set(GOOD) == names - {"model_repository"}


@pytest.mark.parametrize("name", GOOD)
def test_a_flag_wins_over_the_variable_and_the_variable_over_the_default(
    tmp_path: Path, name: str
) -> None:
    flag, variable = f"--{name.replace('_', '-')}", f"TIDEGATE_{name.upper()}"
    default = value(read(tmp_path, [], {}), name)
    assert default != GOOD[name]
    assert value(read(tmp_path, [], {variable: GOOD[name]}), name) == GOOD[name]
    assert value(read(tmp_path, [flag, default], {variable: GOOD[name]}), name) == default


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must "):
        from_arguments([], {"TIDEGATE_MODEL_REPOSITORY": str(tmp_path)} | {
            f"TIDEGATE_{name.upper()}": BAD[name]
        })  # fmt: skip


@pytest.mark.parametrize("name", ["session_ttl", "drain_seconds"])
@pytest.mark.parametrize("text", ["inf", "nan", "1e12"])
def test_a_duration_no_clock_can_say_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be above 0 and at most ten years"):
        read(tmp_path, [], {f"TIDEGATE_{name.upper()}": text})


@pytest.mark.parametrize(("name", "text"), [("port", "http"), ("session_ttl", "soon")])
def test_a_value_of_the_wrong_type_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be (int|float), not '{text}'"):
        read(tmp_path, [], {f"TIDEGATE_{name.upper()}": text})


def test_settings_cannot_change_after_the_start(tmp_path: Path) -> None:
    config = read(tmp_path, [], {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]
